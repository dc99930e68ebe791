"""What a task is: rows to ask, ways to score them, a grader for the answers."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Scoring = Literal["choice", "generate"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One answer to choose from, scored by log p(continuation | context)."""

    context: str
    continuation: str
    """Begins with the space that separates it from the context."""
    text: str
    """The option alone; acc_norm divides by its length in characters."""
    label: str | None = None
    """What a message calls the option, such as "B" or "2"; None where no message names it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question with its right answer."""

    id: str
    messages: tuple[dict[str, str], ...]
    """The chat to answer: dicts of role and content."""
    answer: str
    """The right answer to the messages."""
    options: tuple[Option, ...] = ()
    """Empty where there is nothing to choose from."""
    gold: int | None = None
    """Index of the right option; None without options."""

    @property
    def prompt(self) -> str:
        """The messages as plain text, for a tokenizer without a chat template."""
        return "\n\n".join(message["content"] for message in self.messages) + "\nAnswer:"

    @property
    def key(self) -> str:
        """Sha256 (hex) of what the model is asked; rows of equal key never meet in two splits.

        Case, spacing and the order of options do not count, nor do the options themselves where
        they share one context: ARC has questions twice, with options reordered or one reworded.
        """
        contexts = {option.context for option in self.options}
        asked = contexts or {message["content"] for message in self.messages}
        plain = sorted(" ".join(text.casefold().split()) for text in asked)
        return hashlib.sha256("\0".join(plain).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one answer is worth."""

    reward: float
    """0 to 1."""
    correct: bool


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """Where rows come from on the Hugging Face hub."""

    id: str
    config: str | None = None

    def __str__(self) -> str:
        return self.id if self.config is None else f"{self.id}, {self.config}"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something a model can be tuned on or tested with; knows nothing of models or tensors."""

    name: str
    summary: str
    """What is asked, in a line."""
    source: str
    """Where the rows come from, in words."""
    licence: str
    scoring: Scoring
    """How it is scored where nothing else is said."""
    scorings: tuple[Scoring, ...]
    """All the ways it can be scored."""
    max_new_tokens: int
    """Cap on an answer's length when it is scored by generate."""
    file: str
    """Data files are called <file>.<split>.jsonl."""
    read: Callable[[Mapping[str, Any]], Row]
    """Makes a Row of one object of the source; TaskError names the column that is wrong."""
    grade: Callable[[Row, str], Score]
    """Scores the text of an answer; pure, and never raises."""
    hub: HubSource | None = None
    """None where the rows ship with esft."""
