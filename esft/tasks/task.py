"""What a task is: rows to ask, ways to score them, a grader for the answers."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from esft.errors import TaskError
from esft.stats.knowing import Knowing
from esft.tasks.columns import is_text, text_column, wrong_column
from esft.tasks.sources import RowSource, hub_rows
from esft.tasks.words import SPLITS

Messages = tuple[dict[str, str], ...]  # of role and content


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
    """None takes the characters of `text`."""

    @property
    def divisor(self) -> int:
        """What acc_norm divides the log-probability by."""
        return len(self.text) if self.length is None else self.length


@dataclass(frozen=True, kw_only=True)
class Question:
    """One thing that a model is asked, and answers."""

    messages: Messages
    opening: str = ""
    """What every answer begins with: the model goes on from here; it is graded with it."""
    reference: str | None = None
    """A right answer as the messages ask for it, from `opening` on; None where there is none."""
    words: tuple[str, ...] = field(default=(), repr=False)
    """What it asks to choose from, in a word; of no question but the last ones. Not in the repr,
    so that rows of other tasks keep their `Row.content`."""

    @property
    def prompt(self) -> str:
        """The messages as plain text, for a tokenizer without a chat template; no opening."""
        return "\n\n".join(message["content"] for message in self.messages) + "\nAnswer:"


def ask(
    text: str, *, before: Messages = (), reference: str | None = None, opening: str = ""
) -> Question:
    """A question in one message of the user, behind those of `before`."""
    messages = (*before, {"role": "user", "content": text})
    return Question(messages=messages, opening=opening, reference=reference)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is asked together, in one or more questions, and graded on all the answers."""

    id: str
    questions: tuple[Question, ...]
    """One or more; the model answers each without seeing the others."""
    answer: str | None = None
    """None where the grader needs none."""
    accepted: tuple[str, ...] = ()
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

    @property
    def shown(self) -> dict[str, str | None]:
        """What a reader of answers needs beside them: `question` and `wanted`, a right answer."""
        texts = [m["content"] for question in self.questions for m in question.messages]
        references = [question.reference for question in self.questions]
        wanted = self.answer if None in references else "\n\n".join(references)
        if self.gold is not None:
            wanted = self.options[self.gold].text
        return {"question": "\n\n".join(texts), "wanted": wanted}

    @property
    def content(self) -> str:
        """Sha256 (hex) of all that can change an answer or its grade: questions, options, right
        answers and facts; not the id."""
        return hashlib.sha256(repr(replace(self, id="")).encode()).hexdigest()


def made_id(task: str, *asked: str) -> str:
    """The id of a row whose source has none: the task's name and a hash of what is asked."""
    digest = hashlib.sha256("\0".join(asked).encode()).hexdigest()
    return f"{task}-{digest[:12]}"


def row_id(raw: Mapping[str, Any], task: str, *asked: str) -> str:
    """What is in column id, or one made of what is asked where there is none."""
    value = raw.get("id")
    if value is None:
        return made_id(task, *asked)
    if type(value) is not int and not is_text(value):
        raise wrong_column("id", value, "a text or a whole number")
    return str(value)


def text_options(context: str, texts: Sequence[str], labels: Sequence[str]) -> list[Option]:
    """Options whose whole text continues the one context; labels beyond the texts are unused."""
    return [
        Option(context=context, continuation=f" {text}", text=text, label=label)
        for text, label in zip(texts, labels, strict=False)
    ]


def choice_row(
    *, id: str, asked: str, options: Sequence[Option], gold: int, before: Messages = ()
) -> Row:
    """A row whose last message lists its options, two or more, and asks for a label of theirs."""
    listed = "\n".join(f"{option.label}. {option.text.strip()}" for option in options)
    label = options[gold].label
    kind = "number" if label.isdecimal() else "letter"
    message = f"{asked.strip()}\n\n{listed}\n\nReply with the {kind} of the right answer alone."
    question = ask(message, reference=label, before=before)
    return Row(id=id, questions=(question,), answer=label, options=tuple(options), gold=gold)


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
    others: Mapping[str, float] = field(default_factory=dict)
    """Rewards of other names that the task has, see `Task.rewards`."""
    knowing: Knowing | None = None
    """Of task know."""

    def reward_of(self, name: str | None) -> float:
        """The reward of a name; the task's own for None, and where it has none of that name."""
        if name == "correct":
            return float(self.correct)
        return self.others.get(name, self.reward)


Grader = Callable[..., Grade]
"""Of a row and a sequence of the answers to its questions, in their order; never raises. Behind
them, for each that was chosen from the words of its question, the probability of the first one."""


def one_answer(grade: Callable[[Row, str], Grade]) -> Grader:
    """The grader of rows with one question, of a function that grades its answer."""
    return lambda row, answers: grade(row, *answers)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something a model can be tuned on or tested with; knows nothing of models or tensors."""

    name: str
    summary: str
    source: str
    licence: str
    size: str
    """How many rows there are, in words, such as "7,473 train, 1,319 test"."""
    grading: str
    scorings: tuple[str, ...] = ("generate",)
    """Of `words.SCORINGS`; the one for where nothing else is said comes first."""
    max_new_tokens: int
    """Cap on an answer's length when it is scored by generate."""
    file: str
    """Data files are called <file>.<split>.jsonl."""
    read: Callable[[Mapping[str, Any]], Row]
    """Makes a Row of one object of the source; TaskError names the column that is wrong."""
    grade: Grader
    max_reward: float = 1.0
    rewards: tuple[str, ...] = ("correct", "prob", "logprob")
    """Of `words.REWARDS`, which a run can ask for instead of the task's own."""
    hub: str | None = None
    """The dataset of the hub that has the rows, its configuration behind a comma."""
    make_source: Callable[[], RowSource] | None = None
    """Rows where no folder is named; None takes those that esft ships."""
    splits: Mapping[str, str] = field(default_factory=lambda: {split: split for split in SPLITS})
    """Our split to what the source calls it; one without right answers is left out."""

    @property
    def scoring(self) -> str:
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
        if reward not in (None, *self.rewards):
            raise TaskError(
                f"reward is {reward!r}, expected {' or '.join(self.rewards)} for {self.name}",
                hint="leave reward out for the task's own",
            )
        if reward == "prob" and scoring != "choice":
            raise TaskError(
                f"reward is 'prob', which needs options to choose from: {self.name} is scored by "
                f"{scoring}",
                hint="set reward to logprob or correct, or scoring to choice where the task has it",
            )
        return scoring


def hub_task(name: str, hub: str, **fields: Any) -> Task:
    """A task whose rows are on the hub; its file and source follow from the names."""
    named = {"name": name, "hub": hub, "source": hub, "file": name.replace("-", "_"), **fields}
    return Task(make_source=partial(hub_rows, hub, named["file"]), **named)
