"""Whether a right answer occurs in a text, as whole words."""

import re


def occurs(right: str, text: str) -> bool:
    """Whether the words of `right` stand in `text`, whole and in order, ignoring case.

    "8" is neither in "18" nor in "3.8" nor in "8.5". Time is linear in the length of `text`.
    """
    words = r"\s+".join(map(re.escape, right.split()))
    whole = rf"(?<!\w)(?<!\d[.,]){words}(?!\w)(?![.,]\d)"
    return re.search(whole, text, re.IGNORECASE) is not None
