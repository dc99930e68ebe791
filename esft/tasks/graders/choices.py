"""Which option an answer in free text names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from esft.tasks.graders.text import denied, nfc
from esft.tasks.task import Grade, Row

WINDOW = 80  # characters before an option that may state it

_WRAPPING = " \t\r\n*_`\"'“”‘’()[]{}<>.,:;!$\\"
_MARKS = r"[\s*_`\"'“”‘’()\[\]{}<>$\\:,.-]*"
_LINKS = r"is|['’]s|was|would|must|be|the|a|my|final|correct|right|best|most|likely|probably|not"
_OPTION = r"option|choice|label|letter|number"
_STATING = re.compile(
    rf"(?:\b(?:answer|choose|pick|select|go with)\b|boxed"
    rf"|\b(?:correct|right|best|likely|my) (?:{_OPTION}|one)\b"
    rf"|\b(?:it|this|that)(?:['’]s| is| was| must be| would be)\b)"
    rf"(?:{_MARKS}(?:\b(?:{_LINKS}|{_OPTION}|answer|either|neither)\b))*{_MARKS}$",
    re.IGNORECASE,
)
_CALLING_RIGHT = re.compile(
    rf"{_MARKS}(?:is|must be|would be|seems)\s+(?:the\s+)?(?:correct|right|best|answer)\b",
    re.IGNORECASE,
)
_HEADING = re.compile(rf"(?:^|\n|\b(?:{_OPTION})\b){_MARKS}$", re.IGNORECASE)
_CLOSING = re.compile(
    r"[*_`\"'”’)\]}$\s]*(?:[.:,)\]]|$|[ \t]+[-–—][ \t]|\n)|\s+(?:because|since)\b"
)
_JOINED = re.compile(rf"{_MARKS}(?:\b(?:or|and|nor)\b|[/&])?{_MARKS}", re.IGNORECASE)
# "A plant" and "3 legs" name no label; "A because ..." does.
_SENTENCE = re.compile(
    r"[ \t]{1,3}(?!(?:is|because|since|as|or|and|must|seems)\b)[^\W_]", re.IGNORECASE
)


@dataclass
class _Mention:
    """Where an answer names options: one, or several that are joined, as in "A or B"."""

    start: int
    end: int
    head: int
    """Where the first of them ends."""
    named: set[int]
    is_label: bool


def grade_choice(row: Row, answer: str) -> Grade:
    """1 where `answer` names the right option and no other, by its label or its text."""
    labels = [option.label or "" for option in row.options]
    named = parse_label(answer, labels, [option.text for option in row.options])
    return Grade(reward=float(named == row.answer), correct=named == row.answer)


def parse_label(answer: str, labels: Sequence[str], texts: Sequence[str]) -> str | None:
    """The label of the option that `answer` names; None where it names none, several or denies it.

    The first of these that is there decides: the whole answer is a label or the text of an option;
    the last statement ("the answer is B", "it must be the sun", "B is correct"); a line that
    begins with a label and a mark ("B", "(B) the sun"); the text of one option anywhere. A label
    anywhere else names nothing ("Vitamin B"). Time is linear in the length of the answer.
    """
    answer, texts = nfc(answer), [nfc(text) for text in texts]
    bare = _bare(answer)
    for names in (labels, texts) if bare else ():
        same = [label for label, name in zip(labels, names, strict=True) if _bare(name) == bare]
        if len(same) == 1:
            return same[0]
    stated, headed, words = [], [], []
    for mention in _mentions(answer, labels, texts):
        before = answer[max(0, mention.start - WINDOW) : mention.start]
        if _STATING.search(before) or _CALLING_RIGHT.match(answer, mention.end):
            stated.append(mention)
        elif not mention.is_label:
            words.append(mention)
        elif _HEADING.search(before) and _CLOSING.match(answer, mention.head):
            headed.append(mention)
    chosen = [
        mention
        for mention in stated or headed or words
        if not denied(answer, mention.start, mention.end)
    ]
    named = set().union(*(mention.named for mention in (chosen[-1:] if stated else chosen)))
    return labels[named.pop()] if len(named) == 1 else None


def _bare(text: str) -> str:
    """A text without case, quotes and the like."""
    return " ".join(text.strip(_WRAPPING).casefold().split())


def _mentions(answer: str, labels: Sequence[str], texts: Sequence[str]) -> list[_Mention]:
    """The mentions of options in the order of the answer; the longest text where several fit."""
    bare = [_bare(text) for text in texts]  # one that two options share names neither
    names = {name: number for number, name in enumerate(bare) if bare.count(name) == 1}
    names |= {label.casefold(): number for number, label in enumerate(labels)}
    folded = {label.casefold() for label in labels}
    ordered = sorted((name for name in names if name), key=len, reverse=True)
    anyone = "|".join(r"\s+".join(map(re.escape, name.split())) for name in ordered)
    mentions: list[_Mention] = []
    for match in re.finditer(rf"(?<![\w'’-])(?:{anyone})(?![\w'’-]|[.,]\d)", answer, re.IGNORECASE):
        plain = " ".join(match[0].casefold().split())
        is_label, number = plain in folded, names.get(plain)
        if number is None or (is_label and not _is_label(answer, match, labels[number])):
            continue
        last = mentions[-1] if mentions else None
        if last is not None and _JOINED.fullmatch(answer, last.end, match.start()):
            last.named.add(number)
            last.end = match.end()
        else:
            mentions.append(_Mention(*match.span(), match.end(), {number}, is_label))
    return mentions


def _is_label(answer: str, match: re.Match[str], label: str) -> bool:
    """Whether what reads like a label is one, and no word or number of a sentence."""
    if match[0] != label:  # "b"
        return _CLOSING.match(answer, match.end()) is not None
    return (not label.isdecimal() and label not in ("A", "I")) or not _SENTENCE.match(
        answer, match.end()
    )
