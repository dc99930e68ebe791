"""Ids of rows whose source gives them none."""

import hashlib


def made_id(task: str, *asked: str) -> str:
    """The id of a row that comes without one: the task's name and a hash of what is asked."""
    digest = hashlib.sha256("\0".join(asked).encode()).hexdigest()
    return f"{task}-{digest[:12]}"
