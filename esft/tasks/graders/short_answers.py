"""How near a short answer in free text comes to the answers that are right."""

import re
import unicodedata
from collections import Counter

from esft.tasks.task import Grade, Row

LONGEST = 1000
"""Characters of an answer that are looked at."""

_LEAD = re.compile(
    r"[\s*_]*(?:the\s+)?(?:(?:final|correct)\s+)?answer(?:\s+is\b\s*:?|\s*:)[\s*_]*", re.IGNORECASE
)
# Dots between digits stay, so that 3.5 is not 35; commas there go, so that 1,000 is 1000.
_DROPPED = re.compile(r"['’‘`]|(?<=\d),(?=\d)|(?<!\d)\.|\.(?!\d)")
_ARTICLES = frozenset({"a", "an", "the"})


class _Spaces(dict[int, int]):
    """What `str.translate` makes of characters: punctuation becomes a space, the rest stays."""

    def __missing__(self, code: int) -> int:
        mark = unicodedata.category(chr(code)).startswith("P") or (
            code < 128 and not chr(code).isalnum()
        )
        self[code] = ord(" ") if mark and chr(code) != "." else code
        return self[code]


_SPACES = _Spaces()


def normalised(text: str) -> str:
    """`text` as short answers are compared: lower case, no punctuation, no articles, single spaces.

    Letters of every script and symbols stay. "U.S." is "us" and "Seine-Maritime" is "seine
    maritime"; dots within numbers stay. A text of punctuation or of articles alone stays as it is.

    Source: the comparison of answers of SQuAD (arXiv:1606.05250) and TriviaQA (arXiv:1705.03551),
    which agree but for punctuation (SQuAD drops it, TriviaQA makes it a space): here marks within
    abbreviations go and others part words.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = _DROPPED.sub("", folded).translate(_SPACES).split()
    kept = [word for word in words if word not in _ARTICLES]
    return " ".join(kept or words or folded.split())


def token_f1(said: str, right: str) -> float:
    """Harmonic mean of precision and recall of the words that two normalised texts share; 0 to 1.

    Source: arXiv:1606.05250, section 6.1.
    """
    words, expected = said.split(), right.split()
    shared = (Counter(words) & Counter(expected)).total()
    return 2 * shared / (len(words) + len(expected)) if shared else 0.0


def grade_short(row: Row, answer: str) -> Grade:
    """Reward the best token F1 with an accepted answer; correct where one is equal, normalised.

    Looked at is the first line of `answer` with anything on it, without a lead such as "Answer:"
    or "The answer is".
    """
    said = normalised(first_line(answer))
    right = {normalised(text) for text in (row.answer, *row.accepted)}
    if said in right:
        return Grade(reward=1.0, correct=True)
    return Grade(reward=max(token_f1(said, text) for text in right), correct=False)


def first_line(answer: str) -> str:
    """The first line with anything on it, without a lead; empty where there is none."""
    # Cut first: normalising thousands of marks over one letter would take quadratic time.
    begun = answer.lstrip()[:LONGEST]
    lead = _LEAD.match(begun)
    return begun[lead.end() if lead else 0 :].partition("\n")[0]
