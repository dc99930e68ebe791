"""What a task is: rows to ask, ways to score them, a grader for the answers."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from esft.errors import TaskError
from esft.tasks.columns import text_column
from esft.tasks.words import SPLITS


@dataclass(frozen=True, kw_only=True)
class Option:
    """One answer to choose from, scored by log p(continuation | context)."""

    context: str
    continuation: str
    """Begins with the space that separates it from the context."""
    text: str
    label: str | None = None
    """What a message calls the option, such as "B" or "2"; None where no message names it."""
    length: int | None = None
    """What acc_norm divides the log-probability by; None takes the characters of `text`."""

    @property
    def divisor(self) -> int:
        """What acc_norm divides the log-probability by."""
        return len(self.text) if self.length is None else self.length


@dataclass(frozen=True, kw_only=True)
class Question:
    """One thing that a model is asked, and answers."""

    messages: tuple[dict[str, str], ...]
    """Dicts of role and content."""
    opening: str = ""
    """What every answer begins with: the model goes on from here, and its answer is graded with
    these characters before it."""
    reference: str | None = None
    """A right answer written out as the messages ask for it, beginning with `opening`; what
    reward "logprob" looks at. None where there is none."""

    @property
    def prompt(self) -> str:
        """The messages as plain text, for a tokenizer without a chat template; no opening."""
        return "\n\n".join(message["content"] for message in self.messages) + "\nAnswer:"


def ask(text: str, *, reference: str | None = None, opening: str = "") -> Question:
    """A question in one message of the user."""
    message = {"role": "user", "content": text}
    return Question(messages=(message,), opening=opening, reference=reference)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is asked together, in one or more questions, and graded on all the answers."""

    id: str
    questions: tuple[Question, ...]
    """One or more; the model answers each without seeing the others."""
    answer: str | None = None
    """The right answer; None where the grader needs none."""
    accepted: tuple[str, ...] = ()
    """Further right answers."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the grader needs, such as the numbers of a puzzle."""
    options: tuple[Option, ...] = ()
    gold: int | None = None
    """Index of the right option; None without options."""

    @property
    def key(self) -> str:
        """Sha256 (hex) of what the model is asked; rows of equal key never meet in two splits.

        Case, spacing and the order of options do not count, nor do the options themselves where
        they share one context: ARC has questions twice, with options reordered or one reworded.
        """
        asked = {option.context for option in self.options}
        if len(asked) > 1:  # options within a sentence, which differs from its twin behind them
            asked |= {option.continuation for option in self.options}
        asked = asked or {
            message["content"] for question in self.questions for message in question.messages
        }
        plain = sorted(" ".join(text.casefold().split()) for text in asked)
        return hashlib.sha256("\0".join(plain).encode()).hexdigest()


def made_id(task: str, *asked: str) -> str:
    """The id of a row whose source has none: the task's name and a hash of what is asked."""
    digest = hashlib.sha256("\0".join(asked).encode()).hexdigest()
    return f"{task}-{digest[:12]}"


def text_options(context: str, texts: Sequence[str], labels: Sequence[str]) -> list[Option]:
    """Options whose whole text continues the one context; labels beyond the texts are unused."""
    return [
        Option(context=context, continuation=f" {text}", text=text, label=label)
        for text, label in zip(texts, labels, strict=False)
    ]


def choice_row(*, id: str, asked: str, options: Sequence[Option], gold: int) -> Row:
    """A row whose message lists its options, two or more, and asks for a label of theirs."""
    listed = "\n".join(f"{option.label}. {option.text.strip()}" for option in options)
    label = options[gold].label
    kind = "number" if label.isdecimal() else "letter"
    message = f"{asked.strip()}\n\n{listed}\n\nReply with the {kind} of the right answer alone."
    return Row(
        id=id,
        questions=(ask(message, reference=label),),
        answer=label,
        options=tuple(options),
        gold=gold,
    )


def prompted_row(task: str, raw: Mapping[str, Any]) -> Row:
    """A row of columns prompt and answer."""
    prompt, answer = text_column(raw, "prompt"), text_column(raw, "answer").strip()
    return Row(id=made_id(task, prompt), questions=(ask(prompt, reference=answer),), answer=answer)


@dataclass(frozen=True, kw_only=True)
class Grade:
    """What the answers to a row are worth."""

    reward: float
    """0 to 1, or to the task's `max_reward`."""
    correct: bool
    failure: str | None = None
    """Why the grader gave no reward, in a line; it is 0 then. None where it gave one."""


Grader = Callable[["Row", Sequence[str]], Grade]
"""Grades the answers to the questions of a row, in their order; never raises."""


def one_answer(grade: Callable[[Row, str], Grade]) -> Grader:
    """The grader of rows with one question, of a function that grades its answer."""

    def grade_row(row: Row, answers: Sequence[str]) -> Grade:
        (answer,) = answers
        return grade(row, answer)

    return grade_row


LocatedRow = tuple[str, dict[str, Any]]
"""Where a raw row is, for messages, and its columns."""


class RowSource(Protocol):
    """Where the rows of a task come from, split by split."""

    fix: str
    """What to do about rows that are missing or wrong, the end of each hint."""

    def where(self, split: str) -> str:
        """File, dataset or program and split, for messages."""

    def has(self, split: str) -> bool: ...

    def rows(self, split: str) -> Iterator[LocatedRow]:
        """The raw rows of a split; TaskError where there are none."""


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
    size: str
    """How many rows there are, in words, such as "7,473 train, 1,319 test"."""
    grading: str
    """How a generated answer is graded, in a sentence."""
    scorings: tuple[str, ...]
    """Of `words.SCORINGS`; the one for where nothing else is said comes first."""
    max_new_tokens: int
    """Cap on an answer's length when it is scored by generate."""
    file: str
    """Data files are called <file>.<split>.jsonl."""
    read: Callable[[Mapping[str, Any]], Row]
    """Makes a Row of one object of the source; TaskError names the column that is wrong."""
    grade: Grader
    max_reward: float = 1.0
    hub: HubSource | None = None
    make_source: Callable[[], RowSource] | None = None
    """Rows that are generated, or a user's own; None takes the hub, or the rows that esft ships."""
    splits: Mapping[str, str] = field(default_factory=lambda: {split: split for split in SPLITS})
    """Our split to what the source calls it. One without right answers, or that there is not,
    is left out."""

    @property
    def scoring(self) -> str:
        """How it is scored where nothing else is said."""
        return self.scorings[0]

    def choose_scoring(self, scoring: str | None, reward: str | None) -> str:
        """The scoring asked for, or the task's own for None.

        Raises:
            TaskError: the task has no such scoring, or not with this reward.
        """
        scoring = self.scoring if scoring is None else scoring
        if scoring not in self.scorings:
            raise TaskError(
                f"scoring is {scoring!r}, expected {' or '.join(self.scorings)} for {self.name}"
            )
        if reward == "prob" and scoring != "choice":
            raise TaskError(
                f"reward is 'prob', which needs options to choose from: {self.name} is scored by "
                f"{scoring}",
                hint="set reward to logprob or correct, or scoring to choice where the task has it",
            )
        return scoring


def hub_task(name: str, dataset: str, config: str | None = None, **fields: Any) -> Task:
    """A task whose rows are on the hub; its file and source follow from the names."""
    hub = HubSource(id=dataset, config=config)
    named = {"name": name, "hub": hub, "source": str(hub), "file": name.replace("-", "_")}
    return Task(**{**named, **fields})
