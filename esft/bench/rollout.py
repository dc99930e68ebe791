"""Rollouts in tokens and rows a second, against plain transformers on the same rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from transformers import GenerationConfig

from esft.bench.population import SharedRate, bench_population
from esft.bench.timing import Machine, Spread, in_turns, machine, ratio, spread
from esft.errors import ModelError
from esft.models.identity import stop_tokens
from esft.models.load import LoadedModel, load_model
from esft.recipe.settings import TaskSettings
from esft.rollout.batches import Batches
from esft.rollout.encode import EncodedRow
from esft.rollout.generate import greedy_answers
from esft.rollout.logprobs import Continuation
from esft.rollout.rollout import Rollout
from esft.tasks.task import Row, Task, text_options
from esft.tuning.tasks import task_and_rows

OPTIONS = 4
"""Options of a question whose task has none: its answer and those of the rows behind it."""

CLOSE = 1e-3
"""Log-probabilities that differ by less are the same, but for the order of the sums in them."""

ESFT, PLAIN = "esft", "transformers"

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class RolloutSettings:
    """What rollouts are timed on."""

    model: str = "embedded"
    dtype: str | None = None
    device: str | None = None
    task: str | None = None  # scored in its own way; None takes both ways, and no download
    data_dir: str | None = None
    rows: int = 64
    batches: tuple[int, ...] = (8, 64)  # sequences at a time
    max_new_tokens: int = 64
    rounds: int = 3
    members: int | None = None  # that roll out the rows in one batch too; None times none


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Rows scored in one way and in one batch size, by esft and by plain transformers."""

    scoring: str  # "generate" or "choice"
    batch: int
    sequences: int  # prompts, or options
    tokens: int  # of the answers; for choice those of all options, each with its question
    tokens_per_second: Spread
    rows_per_second: Spread
    plain_tokens_per_second: Spread
    plain_rows_per_second: Spread
    speedup: Spread  # plain transformers' seconds over esft's
    same: int  # sequences that came out the same in both


@dataclass(frozen=True, kw_only=True)
class RolloutBench:
    """What `bench_rollout` measured."""

    machine: Machine
    model: str
    device: str
    dtype: str
    task: str
    rows: int
    rounds: int
    rates: tuple[Rate, ...]
    shared: tuple[SharedRate, ...]


class _Scoring(Protocol):
    """Rows to be scored, in either way; both return what came out in the same order."""

    name: str
    rollout: Rollout
    encoded: Sequence[EncodedRow]

    def esft(self, batch: int) -> list: ...

    def plain(self, batch: int) -> list: ...

    def tokens(self, out: list) -> int: ...

    def same(self, one, other) -> bool: ...


def bench_rollout(settings: RolloutSettings) -> RolloutBench:
    """Time rollouts by generate and by choice, in several batch sizes.

    Plain is `model.generate`, and one whole forward for each option: in batches of the same size,
    their sequences sorted by length as esft's are. EsftError if there is no such model or task, or
    its rows are not found.
    """
    own = "reverse-letters" if settings.model == "embedded" else "conciseness"
    named = own if settings.task is None else settings.task
    wanted = TaskSettings(name=named, train=settings.rows, holdout=1, data_dir=settings.data_dir)
    task, split = task_and_rows(wanted)
    loaded = load_model(settings.model, dtype=settings.dtype, device=settings.device)
    scorings: list[_Scoring] = []
    if settings.task is None or task.scoring != "choice":
        scorings.append(_Generating(loaded, task, split.train, settings.max_new_tokens))
    if settings.task is None or task.scoring == "choice":
        scorings.append(_Choosing(loaded, task, split.train))
    pairs = [(scoring.rollout, scoring.encoded) for scoring in scorings]
    return RolloutBench(
        machine=machine(),
        model=loaded.id,
        device=str(loaded.device),
        dtype=str(loaded.dtype).removeprefix("torch."),
        task=task.name,
        rows=len(split.train),
        rounds=settings.rounds,
        rates=tuple(
            _rate(scoring, batch, len(split.train), settings.rounds, loaded.device)
            for scoring in scorings
            for batch in settings.batches
        ),
        shared=() if settings.members is None else _shared(loaded, pairs, settings),
    )


def _shared(
    loaded: LoadedModel, pairs: Sequence[tuple[Rollout, Sequence[EncodedRow]]], of: RolloutSettings
) -> tuple[SharedRate, ...]:
    try:
        return bench_population(loaded, pairs, of.members, of.batches, of.rounds)
    except ValueError as error:
        raise ModelError(
            f"members of {loaded.id} cannot share a batch: {error}",
            hint="leave out --population",
        ) from error


def _rate(scoring: _Scoring, batch: int, rows: int, rounds: int, device: torch.device) -> Rate:
    ways = {ESFT: lambda: scoring.esft(batch), PLAIN: lambda: scoring.plain(batch)}
    out = {way: score() for way, score in ways.items()}  # warms up, too
    works = {way: {scoring.name: score} for way, score in ways.items()}
    seconds = {way: s[scoring.name] for way, s in in_turns(works, rounds, device).items()}

    def per_second(way: str, count: int) -> Spread:
        return spread([count / taken for taken in seconds[way]])

    return Rate(
        scoring=scoring.name,
        batch=batch,
        sequences=len(out[ESFT]),
        tokens=scoring.tokens(out[ESFT]),
        tokens_per_second=per_second(ESFT, scoring.tokens(out[ESFT])),
        rows_per_second=per_second(ESFT, rows),
        plain_tokens_per_second=per_second(PLAIN, scoring.tokens(out[PLAIN])),
        plain_rows_per_second=per_second(PLAIN, rows),
        speedup=ratio(seconds[PLAIN], seconds[ESFT]),
        same=sum(map(scoring.same, out[ESFT], out[PLAIN])),
    )


class _Generating:
    """Greedy answers, as tokens, up to the first token that ends one."""

    name = "generate"

    def __init__(self, loaded: LoadedModel, task: Task, rows: Sequence[Row], cap: int) -> None:
        self._model, self._tokenizer, self._cap = loaded.model, loaded.tokenizer, cap
        self.rollout = Rollout(loaded.model, loaded.tokenizer, task, scoring="generate")
        self.rollout.max_new_tokens = cap
        self.encoded = self.rollout.encode(rows)
        self._prompts = [prompt for one in self.encoded for prompt in one.prompts]
        self._stops = stop_tokens(loaded.model, loaded.tokenizer)
        self._config = GenerationConfig(
            do_sample=False,
            max_new_tokens=cap,
            eos_token_id=self._stops or None,
            pad_token_id=loaded.tokenizer.pad_token_id,
        )

    def esft(self, batch: int) -> list[tuple[int, ...]]:
        asked = self._model, self._tokenizer, self._prompts, self._cap
        return [answer.tokens for answer in greedy_answers(*asked, Batches(batch))]

    def plain(self, batch: int) -> list[tuple[int, ...]]:
        return in_batches(self._generate, self._prompts, batch, len)

    def tokens(self, out: list[tuple[int, ...]]) -> int:
        return sum(map(len, out))

    def same(self, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        return one == other

    def _generate(self, prompts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        width = max(map(len, prompts))
        gaps = [width - len(prompt) for prompt in prompts]
        padded = [(0,) * gap + prompt for gap, prompt in zip(gaps, prompts, strict=True)]
        mask = [[0] * gap + [1] * (width - gap) for gap in gaps]
        made = self._model.generate(
            torch.tensor(padded, device=self._model.device),
            attention_mask=torch.tensor(mask, device=self._model.device),
            generation_config=self._config,
        )
        return [self._cut(row) for row in made[:, width:].tolist()]

    def _cut(self, tokens: list[int]) -> tuple[int, ...]:
        ends = (i for i, token in enumerate(tokens, start=1) if token in self._stops)
        return tuple(tokens[: next(ends, len(tokens))])


class _Choosing:
    """Log-probabilities of options."""

    name = "choice"

    def __init__(self, loaded: LoadedModel, task: Task, rows: Sequence[Row]) -> None:
        self._model = loaded.model
        if "choice" not in task.scorings:
            task, rows = replace(task, scorings=("choice",)), with_options(rows)
        self.rollout = Rollout(loaded.model, loaded.tokenizer, task, scoring="choice")
        self.encoded = self.rollout.encode(rows)
        self._options = [option for one in self.encoded for option in one.options]

    def esft(self, batch: int) -> list[float]:
        self.rollout.batches = Batches(batch)
        rows = self.rollout.option_logprobs(self.encoded)
        return [logprob for row in rows for logprob in row]

    def plain(self, batch: int) -> list[float]:
        return in_batches(self._forward, self._options, batch, lambda one: len(one.tokens))

    def tokens(self, out: list[float]) -> int:
        return sum(len(option.tokens) for option in self._options)

    def same(self, one: float, other: float) -> bool:
        return abs(one - other) < CLOSE

    @torch.inference_mode()
    def _forward(self, options: Sequence[Continuation]) -> list[float]:
        width, device = max(len(option.tokens) for option in options), self._model.device
        padded = [option.tokens + (0,) * (width - len(option.tokens)) for option in options]
        logits = self._model(torch.tensor(padded, device=device), use_cache=False).logits
        logprobs = torch.log_softmax(logits.float(), dim=-1)  # (options, width, vocabulary)
        sums = []
        for option, row in zip(options, logprobs, strict=True):
            end, targets = len(option.tokens), torch.tensor(option.targets, device=device)
            predicting = row[end - len(targets) : end]
            sums.append(predicting.gather(-1, targets.unsqueeze(-1)).sum())
        return torch.stack(sums).tolist()


def with_options(rows: Sequence[Row]) -> list[Row]:
    """Return rows with `OPTIONS` options each, of which the first is right."""
    answers = [row.questions[0].reference or row.answer or "none" for row in rows]
    made = []
    for number, row in enumerate(rows):
        texts = [answers[(number + further) % len(rows)] for further in range(OPTIONS)]
        options = text_options(row.questions[0].prompt, texts, "ABCD")
        made.append(replace(row, options=tuple(options), gold=0))
    return made


def in_batches(
    work: Callable[[Sequence[Item]], list[Result]],
    items: Sequence[Item],
    batch: int,
    length: Callable[[Item], int],
) -> list[Result]:
    """Return work's results for all items in their order; the longest go first."""
    order = sorted(range(len(items)), key=lambda i: length(items[i]), reverse=True)
    results: dict[int, Result] = {}
    for at in range(0, len(items), batch):
        numbers = order[at : at + batch]
        results |= zip(numbers, work([items[i] for i in numbers]), strict=True)
    return [results[i] for i in range(len(items))]
