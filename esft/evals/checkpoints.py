"""Models that esft did not make, in order behind their base: one of them in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch

from esft.engine.measures import distance
from esft.engine.weights import identity
from esft.errors import EsftError, ModelError, RecipeError
from esft.evals.results import ComparedModel, StepDrift
from esft.evals.steps import Steps
from esft.models.base_file import map_base
from esft.models.find import find_model
from esft.models.identity import stop_tokens
from esft.models.load import LoadedModel, load_model
from esft.models.outline import Outline, outline_model
from esft.rollout.encode import EncodedRow
from esft.rollout.evaluate import ModelVersion
from esft.tuning.tasks import EvalTask
from esft.tuning.watcher import Watcher

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What is known of a checkpoint once it was loaded."""

    version: ModelVersion
    dtype: str
    stops: list[int]


class Checkpoints(Steps):
    """A base model, step 0, and others that are compared with it, from 1 on.

    All of them are asked in the tokens of the base, whose chat template it is; each answer ends at
    the model's own stop tokens.

    Args:
        names: of the models, the base first, as `find_model` reads them.
        dtype: see `load_model`.
        device: as well.
        scores_alone: leave out the distance of the weights, for which those of the base are mapped
            from the disk, and the KL divergence.

    Raises:
        RecipeError: if a model is named twice.
        ModelError: if one cannot be loaded, or gives a token another number than the base.
    """

    def __init__(
        self,
        names: Sequence[str],
        watcher: Watcher,
        *,
        dtype: str | None = None,
        device: str | None = None,
        scores_alone: bool = False,
    ) -> None:
        _refuse_twice(names)
        self._names, self._watcher = names, watcher
        self._how = {"dtype": dtype, "device": device}
        self._outlines = [outline_model(name, **self._how) for name in names]
        for other in self._outlines[1:]:
            _refuse_other_numbers(self._outlines[0], other)
        self.numbers = tuple(range(len(names)))
        self._known: dict[int, _Facts] = {}
        self._step, self._loaded = 0, self._load(0)
        self.loaded = self._loaded
        self._shapes = {name: one.shape for name, one in self.loaded.model.named_parameters()}
        self._scores_alone = scores_alone
        self._base = None if scores_alone else self._mapped()

    def version(self, step: int) -> ModelVersion:
        """Return which weights those of `step` are, as of a model by itself; they are loaded once
        to know."""
        return self._facts(step).version

    def loaded_at(self, step: int) -> LoadedModel:
        """Load the model of `step`, of any, unless it is there; the one before gives its memory."""
        if step != self._step:
            _give_memory(self._loaded)
            self._step, self._loaded = step, self._load(step)
        return self._loaded

    def has_drift(self, step: int) -> bool:
        """Return whether the base was mapped, and it is another model."""
        return step > 0 and self._base is not None

    def has_kl(self, step: int) -> bool:
        """Return whether it is another model than the base, with as many tokens to choose from."""
        return step > 0 and not self._scores_alone and self._same_width(step)

    def drift(self, step: int, percents: Sequence[float] = ()) -> StepDrift:
        """Measure how far the parameters are that have the name and shape of one of the base; NaN
        where there is none. Their changes are not told apart."""
        model = self.loaded_at(step).model
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        both = dict(shapes.items() & self._shapes.items())
        unmatched = tuple(name for name in self._shapes | shapes if name not in both)
        if not both:
            unknown = dict.fromkeys(("norm", "zero_share", "unmoved_share"), math.nan)
            return StepDrift(step=step, unmatched=unmatched, **unknown)
        figures = distance(model, {name: self._base[name] for name in both})
        return StepDrift(step=step, unmatched=unmatched, **vars(figures))

    @property
    def models(self) -> tuple[ComparedModel, ...]:
        """What is compared with the base."""
        return tuple(
            ComparedModel(
                step=step,
                id=self._names[step],
                weights=self.version(step).base,
                dtype=self._facts(step).dtype,
                notes=self._notes(step),
            )
            for step in self.numbers[1:]
        )

    def refuse_other_tokens(self, tasks: Sequence[EvalTask]) -> None:
        """Raise ModelError if a model splits what is asked into other tokens than the base."""
        base, *others = self._outlines
        for task in tasks:
            for row in task.encoded:
                texts = [base.tokenizer.decode(tokens) for tokens in _sequences(row)]
                asked = [_tokens(base.tokenizer, text) for text in texts]
                for other in others:
                    if [_tokens(other.tokenizer, text) for text in texts] != asked:
                        raise ModelError(
                            f"{other.id} splits row {row.row.id} of {task.name} into other tokens "
                            f"than {base.id}, expected the same",
                            hint=_FAMILY,
                        )

    def _load(self, step: int) -> LoadedModel:
        self._watcher.phase(f"loading {self._names[step]}")
        loaded = load_model(self._names[step], **self._how)
        if step not in self._known:
            version = ModelVersion(base=identity(loaded.model), parts=loaded.parts, journal="")
            dtype = str(loaded.dtype).removeprefix("torch.")
            stops = sorted(stop_tokens(loaded.model, loaded.tokenizer))
            self._known[step] = _Facts(version=version, dtype=dtype, stops=stops)
        return loaded

    def _facts(self, step: int) -> _Facts:
        if step not in self._known:
            self.loaded_at(step)
        return self._known[step]

    def _same_width(self, step: int) -> bool:
        return _width(self._outlines[step]) == _width(self._outlines[0])

    def _mapped(self) -> dict[str, Tensor] | None:
        try:
            return map_base(self.loaded, list(self._shapes), self.version(0).base).tensors
        except EsftError as error:
            self._watcher.notice(f"no distance of the weights: {error}")
            return None

    def _notes(self, step: int) -> tuple[str, ...]:
        base, other = self._outlines[0], self._outlines[step]
        notes, facts = [], [self._facts(number) for number in (0, step)]
        if facts[0].dtype != facts[1].dtype:
            notes.append(f"in {facts[1].dtype}, the base in {facts[0].dtype}")
        if base.tokenizer.chat_template != other.tokenizer.chat_template:
            asked = "in plain text" if base.tokenizer.chat_template is None else "in that"
            notes.append(f"has another chat template than the base: asked {asked} of the base")
        if facts[0].stops != facts[1].stops:
            ends = [
                ", ".join(map(str, other.tokenizer.convert_ids_to_tokens(f.stops))) for f in facts
            ]
            ends = [end or "no token" for end in ends]
            notes.append(f"its answers end at {ends[1]}, the base's at {ends[0]}")
        if not self._same_width(step):
            widths = [f"{_width(one):,}" for one in (other, base)]
            notes.append(f"chooses among {widths[0]} tokens, the base among {widths[1]}: no KL")
        return tuple(notes)


_FAMILY = "compare a model with what it was made from: a fine-tune, a merge, a quantized form"


def _refuse_twice(names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        where = find_model(name)
        same = where if isinstance(where, str) else str(where.resolve())
        if same in seen:
            raise RecipeError(
                f"{name} is named twice, expected models that differ",
                hint="--base is what the others are compared with; name each of those once",
            )
        seen.add(same)


def _refuse_other_numbers(base: Outline, other: Outline) -> None:
    ours, theirs = base.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    tokens = {number: token for token, number in theirs.items()}
    differ = [
        token
        for token, number in sorted(ours.items(), key=lambda pair: pair[1])
        if theirs.get(token, number) != number or tokens.get(number, token) != token
    ]
    if differ:
        first = differ[0]
        raise ModelError(
            f"{other.id} has another tokenizer than {base.id}: token {ours[first]} is "
            f"{tokens.get(ours[first])!r}, expected {first!r} ({len(differ):,} of {len(ours):,} "
            "tokens differ)",
            hint=_FAMILY,
        )


def _sequences(row: EncodedRow) -> list[tuple[int, ...]]:
    return [*row.prompts, *((*c.tokens, c.targets[-1]) for c in (*row.options, *row.references))]


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _width(outline: Outline) -> int:
    return outline.model.get_output_embeddings().weight.shape[0]


def _give_memory(loaded: LoadedModel) -> None:
    """Take the weights from a model: those who refer to it still see its config and device."""
    for tensor in chain(loaded.model.parameters(), loaded.model.buffers()):
        tensor.data = tensor.data.new_empty(0)
    torch.cuda.empty_cache()  # nothing on a CPU
