"""Which option an answer in free text names."""

import re
from collections.abc import Iterator, Sequence

from esft.tasks.task import Grade, Row

_WORD = re.compile(r"[^\W_]+(?:[.,]\d+|['’][^\W_]+)*")  # "3.5" and "A's" name no option
_WRAPPING = " \t\r\n*_`\"'“”‘’()[]{}<>.,:;!$\\"
_CUES = {"answer", "option", "choice", "label", "letter"}
_AFTER_CUE = {"is", "the", "correct", "right", "best", "most", "likely", "probably", "would", "be"}
_AFTER_CUE |= {"number"}
_JOINING = {"or", "and"}
_DENYING = {"not", "isn't", "isn’t", "never", "neither", "nor"}
_VERBS = {"is", "because", "since", "as"}
_CLOSING = {"", ")", ".", ":", "]", "*", "\r", "\n"}
_NEXT = re.compile(r"[ \t]{1,3}([^\W_]{1,20})")

_CUED, _LEADING, _ELSEWHERE = range(3)  # where a label stands


def grade_choice(row: Row, answer: str) -> Grade:
    """1 where `answer` names the right option and no other, by its label or its text."""
    labels = [option.label or "" for option in row.options]
    named = parse_label(answer, labels, [option.text for option in row.options])
    return Grade(reward=float(named == row.answer), correct=named == row.answer)


def parse_label(answer: str, labels: Sequence[str], texts: Sequence[str]) -> str | None:
    """The label of the option that `answer` names; None where it names none or more than one.

    The first of these that finds something decides: the whole answer is a label or a text; labels
    behind a cue ("option B"); labels that begin a line ("B. because"); labels and texts anywhere.
    A label next to another, or joined to it by "or" or "and", is found where the other is.
    """
    bare = _bare(answer)
    for names in (labels, texts) if bare else ():
        same = [label for label, name in zip(labels, names, strict=True) if _bare(name) == bare]
        if len(same) == 1:
            return same[0]
    named: tuple[set[str], ...] = (set(), set(), set())
    for standing, label in _mentions(answer, labels):
        named[standing].add(label)
    named[_ELSEWHERE].update(_quoted(answer, labels, texts))
    first = next(filter(None, named), set())
    return first.pop() if len(first) == 1 else None


def _bare(text: str) -> str:
    """A text without case, quotes and the like."""
    return " ".join(text.strip(_WRAPPING).casefold().split())


def _mentions(answer: str, labels: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Each label in `answer` with where it stands."""
    folded = {label.casefold(): label for label in labels}
    cued = denied = False
    end = 0
    last: int | None = None  # where the label stands that the next one would be joined to
    for word in _WORD.finditer(answer):
        heads = end == 0 or "\n" in answer[end : word.start()]
        end = word.end()
        plain = word.group().casefold()
        label = folded.get(plain)
        if label is not None and _is_label(answer, word, label, marked=cued or heads):
            if not denied:
                own = _CUED if cued else _LEADING if heads else _ELSEWHERE
                last = own if last is None else min(own, last)
                yield last, label
            cued = denied = False
        elif plain not in _JOINING:
            last = None
            cued = plain in _CUES or (cued and plain in _AFTER_CUE)
            denied = plain in _DENYING or (denied and plain in _CUES | _AFTER_CUE)


def _is_label(answer: str, word: re.Match[str], label: str, *, marked: bool) -> bool:
    """Whether a word that reads like a label is one, unlike those of "a plant" and "3 legs"."""
    end = word.end()
    if word.group() != label and not (marked and answer[end : end + 1] in _CLOSING):
        return False
    if not label.isdecimal() and label not in ("A", "I"):
        return True
    following = _NEXT.match(answer, end)
    return following is None or following.group(1).casefold() in _VERBS | _JOINING


def _quoted(answer: str, labels: Sequence[str], texts: Sequence[str]) -> set[str]:
    """Labels of the options whose words `answer` holds, less those within a longer such option."""
    said, *options = (
        f" {' '.join(word.group().casefold() for word in _WORD.finditer(text))} "
        for text in (answer, *texts)
    )
    held = [words for words in options if words.strip() and words in said]
    return {
        label
        for label, words in zip(labels, options, strict=True)
        if words in held and not any(words in longer and words != longer for longer in held)
    }
