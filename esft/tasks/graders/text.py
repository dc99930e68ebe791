"""How an answer in words compares with the right ones: the same, within it, or near to them."""

import re
import unicodedata
from collections import Counter

from esft.tasks.task import Grade, Row

LONGEST = 1000  # characters of a short answer that are looked at

_LEAD = re.compile(
    r"[\s*_]*(?:the\s+)?(?:(?:final|correct)\s+)?answer(?:\s+is\b\s*:?|\s*:)[\s*_]*", re.IGNORECASE
)
# Dots between digits stay, so that 3.5 is not 35; commas there go, so that 1,000 is 1000.
_DROPPED = re.compile(r"['’‘`]|(?<=\d),(?=\d)|(?<!\d)\.|\.(?!\d)")
_ARTICLES = frozenset({"a", "an", "the"})


def grade_exact(row: Row, answer: str) -> Grade:
    """1 where `answer` is a right answer, but for case, runs of spaces and space around it."""
    said, *rights = (text.casefold().split() for text in (answer, row.answer, *row.accepted))
    return Grade(reward=float(said in rights), correct=said in rights)


def grade_contains(row: Row, answer: str) -> Grade:
    """1 where a right answer stands in `answer` as whole words, ignoring case."""
    correct = any(occurs(right, answer) for right in (row.answer, *row.accepted))
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
    words = r"\s+".join(map(re.escape, right.split()))
    whole = rf"(?<!\w)(?<!\d[.,]){words}(?!\w)(?![.,]\d)"
    return re.search(whole, text, re.IGNORECASE) is not None


def normalised(text: str) -> str:
    """`text` in lower case, without punctuation and articles; one that has no more stays as it is.

    Source: the comparison of answers of SQuAD (arXiv:1606.05250) and TriviaQA (arXiv:1705.03551),
    which agree but for punctuation (SQuAD drops it, TriviaQA makes it a space): here marks within
    abbreviations go and others part words.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(" " if _parts_words(char) else char for char in _DROPPED.sub("", folded))
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
