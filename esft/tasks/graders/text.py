"""How an answer in words compares with the right ones: the same, within it, or near to them."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import groupby

from esft.tasks.task import Grade, Row

LONGEST = 1000  # characters of a short answer that are looked at
CANDIDATES = 3  # things in one list that an answer may name, the right one among them
LONGEST_CANDIDATE = 4  # words of one of them

_LEAD = re.compile(
    r"[\s*_]*(?:the\s+)?(?:(?:final|correct)\s+)?answer(?:\s+is\b\s*:?|\s*:)[\s*_]*", re.IGNORECASE
)
# Dots between digits stay, so that 3.5 is not 35; commas there go, so that 1,000 is 1000.
_DROPPED = re.compile(r"['’‘`]|(?<=\d),(?=\d)|(?<!\d)\.|\.(?!\d)")
_ZEROS_BEHIND = re.compile(r"(?<![\d.,])(\d+)(?:(\.\d*[1-9])0+|\.0+)(?![.,]?\d)")
_CLAUSE_END = re.compile(r"[.;:,!?](?=\s|$)|\n|\bbut\b", re.IGNORECASE)
_ALL_BUT = re.compile(r"\b(?:all|any\w*|every\w*|no\w*)\s+(?:but|besides)\b", re.IGNORECASE)
_NO = r"not|never|neither|nor|cannot|except|excluding|other than|unlikely|wrong|\w+n['’]t"
_DENIAL = re.compile(rf"\b(?:{_NO})\b", re.IGNORECASE)
_DENIAL_BEHIND = re.compile(
    rf"[*_`\"'”’)\s]*(?:(?!and\b|or\b|but\b)[\w’']+\s+){{0,2}}(?:{_NO}|incorrect|false)\b",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(
    r"[,;/|\n•]|[.!?](?=\s|$)|\b(?:and|or)\b|(?<!\w)\d{1,2}[.)]\s|(?<!\S)[-*–]\s", re.IGNORECASE
)
_RIGHT = "\0"
_ARTICLES = frozenset({"a", "an", "the"})


def grade_exact(row: Row, answer: str) -> Grade:
    """1 where `answer` is a right answer, but for case, runs of spaces and space around it."""
    said, *rights = (nfc(text).casefold().split() for text in (answer, row.answer, *row.accepted))
    return Grade(reward=float(said in rights), correct=said in rights)


def grade_contains(row: Row, answer: str) -> Grade:
    """1 where a right answer stands in `answer` as whole words, ignoring case, and is meant.

    It is not where the answer denies it ("not Paris", "Paris is wrong"), or lists more than
    CANDIDATES things of which it is one: a reward must not be had by naming everything.
    """
    correct = states((row.answer, *row.accepted), answer)
    return Grade(reward=float(correct), correct=correct)


def grade_short(row: Row, answer: str) -> Grade:
    """The best token F1 of the first line with a right answer; correct where one is equal."""
    said = normalised(first_line(answer))
    rights = {normalised(text) for text in (row.answer, *row.accepted)}
    if said in rights:
        return Grade(reward=1.0, correct=True)
    return Grade(reward=max(token_f1(said, right) for right in rights), correct=False)


def occurs(right: str, text: str) -> bool:
    """Whether `text` has the words of `right`, whole and in order; "8" is not in "18" or "3.8"."""
    return occurs_any((right,), text)


def occurs_any(rights: Iterable[str], text: str) -> bool:
    """Whether one of `rights` does, see `occurs`."""
    return re.search(_words_of(rights), nfc(text), re.IGNORECASE) is not None


def states(rights: Iterable[str], text: str) -> bool:
    """Whether `text` has one of `rights` as `occurs` does, not denied nor one of a long list."""
    text = nfc(text)
    named = list(re.finditer(_words_of(rights), text, re.IGNORECASE))
    if not named or all(denied(text, *right.span()) for right in named):
        return False
    # Runs of short pieces between commas, lines, "or" and the like; the right ones count once.
    marked = re.sub(_words_of(rights), _RIGHT, text, flags=re.IGNORECASE)
    pieces = (piece.split() for piece in _SEPARATOR.split(marked))
    lists = groupby(pieces, key=lambda words: len(words) <= LONGEST_CANDIDATE)
    for pieces_are_short, run in lists:
        candidates = [words for words in run if words]
        others = [words for words in candidates if _RIGHT not in words]
        if pieces_are_short and len(others) < len(candidates) and len(others) + 1 > CANDIDATES:
            return False
    return True


def denied(text: str, start: int, end: int) -> bool:
    """Whether the clause around text[start:end] says that this is not so."""
    before = _CLAUSE_END.split(_ALL_BUT.sub(" not ", text[max(0, start - 200) : start]))[-1]
    return bool(_DENIAL.search(before) or _DENIAL_BEHIND.match(text[end : end + 60]))


def _words_of(rights: Iterable[str]) -> str:
    """A pattern of any of `rights`, the longest first."""
    words = (r"\s+".join(map(re.escape, nfc(right).split())) for right in rights)
    anyone = "|".join(sorted(words, key=len, reverse=True))
    return rf"(?<!\w)(?<!\d[.,])(?:{anyone})(?!\w)(?![.,]\d)"


def nfc(text: str) -> str:
    """`text` with one form of letters with accents, which have two."""
    if text.isascii():
        return text
    # Thousands of marks on one letter would take quadratic time: more than 30 are cut (as UAX #15
    # suggests for streams).
    kept, marks = [], 0
    for char in text:
        marks = marks + 1 if unicodedata.combining(char) else 0
        if marks <= 30:
            kept.append(char)
    return unicodedata.normalize("NFC", "".join(kept))


def normalised(text: str) -> str:
    """`text` in lower case, without punctuation and articles; one that has no more stays as it is.

    Source: the comparison of answers of SQuAD (arXiv:1606.05250) and TriviaQA (arXiv:1705.03551),
    which agree but for punctuation (SQuAD drops it, TriviaQA makes it a space): here marks within
    abbreviations go and others part words.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = _ZEROS_BEHIND.sub(r"\1\2", _DROPPED.sub("", folded))
    plain = "".join(" " if _parts_words(char) else char for char in plain)
    kept = [word for word in plain.split() if word not in _ARTICLES]
    return " ".join(kept or plain.split() or folded.split())


def _parts_words(char: str) -> bool:
    mark = char.isascii() or unicodedata.category(char).startswith("P")
    return mark and not char.isalnum() and char != "."


def token_f1(said: str, right: str) -> float:
    """Harmonic mean of precision and recall of the words that two normalised texts share; 0 to 1.

    Source: arXiv:1606.05250, section 6.1.
    """
    words, expected = said.split(), right.split()
    shared = (Counter(words) & Counter(expected)).total()
    return 2 * shared / (len(words) + len(expected)) if shared else 0.0


def first_line(answer: str) -> str:
    """The first line with anything on it, without a lead such as "Answer:" or "The answer is"."""
    # Cut first: normalising thousands of marks over one letter would take quadratic time.
    begun = answer.lstrip()[:LONGEST]
    lead = _LEAD.match(begun)
    return begun[lead.end() if lead else 0 :].partition("\n")[0]
