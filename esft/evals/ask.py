"""What a model answers when it is asked: a run's base model beside its tuned one, or one alone."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import TextStreamer

from esft.embedded import EMBEDDED
from esft.errors import EsftError, ModelError, RecipeError, RunError, TaskError
from esft.files import read_file
from esft.models.calling import quiet
from esft.models.find import find_model
from esft.models.identity import stop_tokens
from esft.models.load import LoadedModel, load_model
from esft.rollout.batches import Batches
from esft.rollout.encode import encode_prompt
from esft.rollout.generate import Answer, greedy_answers
from esft.runs.names import find_run
from esft.tasks.task import Messages, Question, ask
from esft.tuning.base import Base
from esft.tuning.rebuild import RebuildOptions, Source, bring_to, find_source, open_at_base, step_of
from esft.tuning.watcher import Watcher

BASE, TUNED, MODEL = "base", "tuned", "model"
"""Whose answer it is: those of a run, or of a model by itself."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model answered."""

    text: str
    tokens: int
    cut: bool  # it met no stop token before it was as long as it may be
    finite: bool  # False where a logit was NaN: the model overflows


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked: the models of a run share one place in memory."""

    loaded: LoadedModel
    name: str  # of the run, the journal or the model
    step: int | None  # that the tuned model is of; None for a model by itself
    base: Base | None  # at that step; None where there is one model alone
    batch: int | None  # sequences at a time, as in the run

    @property
    def voices(self) -> tuple[str, ...]:
        """Whose answers there are, in the order to show them."""
        if self.base is not None:
            return BASE, TUNED
        return (MODEL,) if self.step is None else (TUNED,)

    @property
    def remembers(self) -> bool:
        """Whether it can be told what was said before: that takes a chat template, and a model that
        knows talks, which the embedded one does not."""
        talks = self.loaded.folder != EMBEDDED
        return talks and self.loaded.tokenizer.chat_template is not None

    def chats(self) -> tuple["Chat", ...]:
        """Return a new talk with each of them."""
        return tuple(Chat(asked=self, voice=voice) for voice in self.voices)

    def answer(
        self,
        voice: str,
        chats: Sequence[Messages],
        most: int,
        on_text: Callable[[str], None] | None = None,
    ) -> list[Reply]:
        """Return the greedy answer to the last message of each chat, as a rollout makes it.

        Args:
            voice: one of `voices`.
            chats: each ends with a message of the user.
            most: tokens of an answer; fewer where the model's context ends before.
            on_text: called with each piece of the answer to a single chat, as soon as it is there.

        Raises:
            TaskError: if a chat leaves no room for an answer, or the chat template refuses it.
        """
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        with quiet():
            prompts = [encode_prompt(tokenizer, Question(messages=chat)) for chat in chats]
        caps = [min(most, self._room(prompt)) for prompt in prompts]
        stream = None if on_text is None else _Stream(tokenizer, on_text)
        bend = None if stream is None else stream.watch
        answers: dict[int, Answer] = {}
        with self.base.drift.at_base() if voice == BASE else nullcontext():
            for cap in sorted(set(caps)):  # one, but where some leave less room than others
                numbers = [number for number, own in enumerate(caps) if own == cap]
                asked = [prompts[number] for number in numbers]
                done = greedy_answers(model, tokenizer, asked, cap, Batches(self.batch), bend)
                answers |= zip(numbers, done, strict=True)
        if stream is not None:
            stream.end()
        stops = stop_tokens(model, tokenizer)
        return [_reply(answers[number], stops) for number in range(len(chats))]

    def _room(self, prompt: tuple[int, ...]) -> float:
        """Return how many tokens of an answer the model's context has room for."""
        limit = getattr(self.loaded.model.config, "max_position_embeddings", None) or math.inf
        if len(prompt) >= limit:
            raise TaskError(
                f"the question has {len(prompt):,} tokens, expected fewer than {limit:,}, the "
                "model's context",
                hint="ask something shorter",
            )
        return limit - len(prompt)


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A talk with one of the models, which goes on from its own answers."""

    asked: Asked
    voice: str
    said: Messages = ()

    def say(
        self, text: str, most: int, on_text: Callable[[str], None] | None = None
    ) -> tuple[Reply, "Chat"]:
        """Return the answer to `text`, and the talk with both; see `Asked.answer`.

        What was said first is forgotten where the model's context has no room for all, and all of
        it where the model remembers nothing.
        """
        chat = (*self.said, *messages_of(text))
        while True:
            try:
                (reply,) = self.asked.answer(self.voice, [chat], most, on_text)
                break
            except TaskError:
                if len(chat) == 1:
                    raise
                chat = chat[2:]
        said = (*chat, {"role": "assistant", "content": reply.text})
        return reply, replace(self, said=said if self.asked.remembers else ())


class _Stream(TextStreamer):
    """Tells an answer word by word, while it is decoded."""

    def __init__(self, tokenizer, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_special_tokens=True)
        self._on_text = on_text

    def watch(self, rows: list[int], count: int, logits: Tensor) -> Tensor:
        """Take the token of the one row; see `Bend`, whose logits stay as they are."""
        self.put(logits.argmax(dim=-1).cpu())
        return logits

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers with whole words."""
        if text:
            self._on_text(text)


def _reply(answer: Answer, stops: Sequence[int]) -> Reply:
    return Reply(
        text=answer.text,
        tokens=len(answer.tokens),
        cut=answer.tokens[-1] not in stops,
        finite=answer.finite,
    )


def open_asked(name: str | None, at: str, watcher: Watcher, options: RebuildOptions) -> Asked:
    """Return what `name` means, loaded: a run or a journal at a step, or a model by itself.

    A run is brought to the step by its journal; where its base model is not found, the model that
    it saved answers alone.

    Args:
        name: a run, a journal or a model; None is the newest run.
        at: "best", "last" or the number of a step.

    Raises:
        EsftError: if there is no such run, model or step, or it cannot be loaded.
    """
    if not _is_run(name):
        if at != "last":
            raise RecipeError(
                f"--at is {at}, expected none: {name} is a model by itself, which has no steps",
                hint="name a run; esft runs lists them",
            )
        watcher.phase(f"loading {name}")
        loaded = load_model(name, device=options.device)
        return Asked(loaded=loaded, name=name, step=None, base=None, batch=None)
    source = find_source(name)
    step = step_of(source, at)
    run = source.run
    if run is not None:
        torch.set_num_threads(run.info.threads)  # on a CPU the bits depend on it
    about = {"name": str(source.record.path if run is None else run.path), "step": step}
    about["batch"] = None if run is None else run.info.batch
    try:
        base = open_at_base(source, watcher, options)
    except ModelError as error:
        loaded = _saved(source, step, options, error, watcher)
        return Asked(loaded=loaded, base=None, **about)
    bring_to(base, source, step, watcher, from_base=options.from_base)
    return Asked(loaded=base.loaded, base=base, **about)


def messages_of(text: str) -> Messages:
    """Return a question as a chat that begins with it."""
    return ask(text).messages


def questions_in(path: Path) -> list[str]:
    """Return the questions of a text file, one a line; EsftError if there are none."""
    try:
        lines = read_file(path).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise EsftError(
            f"{path} cannot be read: {reason}", hint="name a text file, a question a line"
        ) from error
    questions = [line.strip() for line in lines if line.strip()]
    if not questions:
        raise EsftError(f"{path} has no questions", hint="write one a line")
    return questions


def is_askable(name: str) -> bool:
    """Return whether a word is the name of a run, a journal or a model, as far as can be told."""
    if _is_run(name):
        return True
    try:
        find_model(name)
    except ModelError:
        return False
    return True


def _is_run(name: str | None) -> bool:
    if name is None or (Path(name).is_file() and not name.lower().endswith(".gguf")):
        return True
    try:
        find_run(name)
    except RunError:
        return False
    return True


def _saved(
    source: Source, step: int, options: RebuildOptions, error: EsftError, watcher: Watcher
) -> LoadedModel:
    """Load the model that a run saved, where it is of `step`; else raise what went wrong."""
    run = source.run
    saved = None if run is None else run.info.saved
    if options.model is not None or saved is None or saved.step != step:
        raise error
    if run.kept_model is None or not run.kept_model.is_dir():
        raise error
    watcher.notice(f"{error}; so there are no answers of the base model")
    return load_model(
        str(run.model_path.absolute()),
        dtype=run.info.model.dtype,
        device=options.device,
        trust_remote_code=run.info.settings["model.trust_remote_code"],
    )
