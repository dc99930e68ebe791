"""One forward for many members: each sequence of a batch as the member it belongs to."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from esft.engine.coded import coded_linear
from esft.engine.members import Member
from esft.engine.noise import noise_rows
from esft.engine.weights import SCRATCH, Weights

_AT_ONCE, _DRAWING = 1 << 18, 16
"""Elements of noise that are made at once at most, and bytes that it takes to make one."""
_WEIGHT = {functional.linear: 1, coded_linear: 1, functional.embedding: 1, torch.addmm: 2}
"""Functions that a matrix can be perturbed in, and which of their arguments it is."""
_BIAS = {functional.linear: 2, coded_linear: 2, torch.addmm: 0}


class BatchedModel:
    """A model that reads a batch whose sequences belong to several members.

    A layer's output is x W' + sigma * (x . b_i) a_i, so that member i needs a vector for its rows
    and one for its columns, and no weights of its own: W stays as it is, and nothing is undone.
    W may be codes, which stay as they are too: x W' is read from them once for all members.
    Biases of linear layers get the noise of each member. Else it is the model: called without
    members it does what the model does, whose attributes it has.

    Args:
        model: its layers may be of any class, as long as the tuned matrices are read by
            `functional.linear`, `functional.embedding`, `torch.addmm` or `coded_linear`.
        weights: its tuned parameters, with a rank.

    Raises:
        ValueError: naming the parameter that is read otherwise, or not at all.

    Source: arXiv:2511.16652 (EGGROLL), batched low-rank forward.
    """

    def __init__(self, model: nn.Module, weights: Weights) -> None:
        self._model, self._weights = model, weights
        self._noises: _Noises | None = None
        self._last: _Reading | None = None
        self._key: tuple[int, ...] | None = None  # what the last one is for
        places = {weights.flat(name).data_ptr(): name for name in weights.names}
        self._names = {  # of a parameter, by its identity; tied ones have one name
            id(parameter): places[parameter.data_ptr()]
            for _, parameter in model.named_parameters(remove_duplicate=False)
            if parameter.data_ptr() in places
        }
        self._refuse_other_uses()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    @contextmanager
    def members(self, members: Sequence[Member], sigma: float) -> Iterator[None]:
        """Hold the vectors of some members in the block, see `most_members`."""
        self._noises = _Noises.of(self._weights, members, sigma)
        try:
            yield
        finally:
            self._noises = self._last = self._key = None

    def __call__(
        self,
        *,
        input_ids: Tensor,
        members: Sequence[int] | None = None,
        predicting: Tensor | None = None,
        **inputs: object,
    ) -> Any:
        """Return the model's outputs.

        Args:
            input_ids: (rows, width).
            members: of each row, its member's place among those held; None reads all rows with
                the weights as they are.
            predicting: of each hidden state that the output layer sees, which row it is of, where
                that is given (1, states, hidden) instead of (rows, width, hidden).
        """
        if members is None:
            return self._model(input_ids=input_ids, **inputs)
        with self._reading(members, input_ids, predicting):
            return self._model(input_ids=input_ids, **inputs)

    def _reading(
        self, members: Sequence[int], ids: Tensor, predicting: Tensor | None
    ) -> "_Reading":
        """Return what adds the members' noise: from token to token of an answer that is one."""
        key = None if predicting is not None else (ids.shape[1], *members)
        if key is None or key != self._key:
            rows = torch.tensor(members, device=ids.device)
            self._last = _Reading(self._noises, self._names, rows, ids.shape[1], predicting)
            self._key = key
        return self._last

    @torch.inference_mode()
    def _refuse_other_uses(self) -> None:
        """Read three sequences of five tokens, and see what reads the tuned parameters."""
        size = self._model.get_input_embeddings().num_embeddings
        ids = (torch.arange(15, device=self._model.device) % size).view(3, 5)
        with self.members([Member(seed) for seed in range(3)], 1.0), _Watching(self._names) as seen:
            self(input_ids=ids, members=range(3), use_cache=False)
        unseen = [name for name in self._weights.names if name not in seen.read]
        for name in [*seen.otherwise, *unseen]:
            raise ValueError(
                f"{name} is not read by a linear or embedding layer, as the noise of members that "
                "share a batch asks for"
            )


@dataclass(frozen=True)
class _Noise:
    """What the members' noise of one parameter is made of, in the dtype it is computed in."""

    left: Tensor | None  # a of a matrix, (noises * rank, rows)
    right: Tensor | None  # b of a matrix, (noises * rank, columns)
    full: Tensor | None  # of a bias, (noises, elements)


@dataclass(frozen=True)
class _Noises:
    """The vectors of some members: those of a pair are there once."""

    parameters: Mapping[str, _Noise]
    places: Tensor  # of each member, its noise
    scales: Tensor  # of each member, sigma * sign; (members,), float32
    rank: int
    unit: float

    @staticmethod
    def of(weights: Weights, members: Sequence[Member], sigma: float) -> "_Noises":
        seeds = list(dict.fromkeys(member.seed for member in members))
        factors = [f for f in map(weights.factors, weights.names) if f is not None]
        device = weights.flat(weights.names[0]).device
        return _Noises(
            parameters={name: _drawn(weights, name, seeds) for name in weights.names},
            places=torch.tensor([seeds.index(member.seed) for member in members], device=device),
            scales=torch.tensor([sigma * member.sign for member in members], device=device),
            rank=factors[0].rank if factors else 1,
            unit=factors[0].unit if factors else 1.0,
        )


def _drawn(weights: Weights, name: str, seeds: Sequence[int]) -> _Noise:
    flat, factors = weights.flat(name), weights.factors(name)
    numel, dtype = weights.count(name), weights.dtype(name)
    at_once = min(_AT_ONCE, weights.scratch // 2 // _DRAWING)  # elements, or one row

    def rows(streams: Sequence[tuple[str, int, str]], count: int) -> Tensor:
        made = flat.new_empty(len(streams), count, dtype=dtype)
        some = max(1, at_once // max(1, count))
        for first in range(0, len(streams), some):
            part = streams[first : first + some]
            made[first : first + some] = noise_rows(part, 0, count, flat.device)
        return made

    if factors is None:
        return _Noise(None, None, rows([("noise", seed, name) for seed in seeds], numel))
    sides = {"left": numel // factors.columns, "right": factors.columns}
    left, right = (
        rows([one for seed in seeds for one in factors.streams(side, seed, name)], count)
        for side, count in sides.items()
    )
    return _Noise(left, right, None)


def vectors_numel(shapes: Iterable[tuple[int, ...]], rank: int) -> int:
    """Return the elements of a member's vectors, for tuned parameters of these shapes."""
    return sum(rank * sum(shape) if len(shape) == 2 else math.prod(shape) for shape in shapes)


def most_members(nbytes: int, scratch: int = SCRATCH) -> int:
    """Return how many members' vectors, of so many bytes each, fit half of the scratch: 1 or more.

    The other half is for what makes them.
    """
    return max(1, scratch // 2 // max(1, nbytes))


class _Reading(TorchFunctionMode):
    """Adds to what linear and embedding layers put out what their rows' members add."""

    def __init__(
        self,
        noises: _Noises,
        names: Mapping[int, str],
        members: Tensor,  # (rows,)
        width: int,
        predicting: Tensor | None,
    ) -> None:
        super().__init__()
        self._noises, self._names = noises, names
        self._width, self._predicting = width, predicting
        self._places, self._scales = noises.places[members], noises.scales[members]  # (rows,) each
        count = int(noises.places.max()) + 1
        shares = torch.zeros(len(members), count, device=members.device)
        shares[torch.arange(len(members)), self._places] = self._scales
        self._full = shares  # (rows, noises)
        self._low_rank = shares.repeat_interleave(noises.rank, dim=1) * noises.unit
        self._spread: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        at = _WEIGHT.get(func)
        if at is None or len(args) <= at:
            return result
        name = self._names.get(id(args[at]))
        if func is functional.embedding:
            return result if name is None else self._embedded(name, args[0], result)
        bias = (*args, None)[_BIAS[func]]
        if name is None and id(bias) not in self._names:
            return result
        flat = _flat(result)
        if name is not None:
            of = self._noises.parameters[name]
            inward, outward = (of.right, of.left) if at == 1 else (of.left, of.right)
            inputs = args[at - 1]
            shares, others = self._shares(name, inputs.shape[:-1], self._low_rank, inputs.dtype)
            # What the noise of other members makes of a row counts nothing, also where infinite.
            along = (_flat(inputs) @ inward.T).masked_fill_(others, 0).mul_(shares)
            flat.addmm_(along, outward)
        if (name := self._names.get(id(bias))) is not None:
            shares, _ = self._shares(name, result.shape[:-1], self._full, result.dtype)
            flat.addmm_(shares, self._noises.parameters[name].full)
        return flat.view(result.shape)  # not `result`, of which `flat` may be a copy

    def _embedded(self, name: str, ids: Tensor, result: Tensor) -> Tensor:
        """Return the embeddings of `ids` with what the members of the rows add to them."""
        of, rank, rows = self._noises.parameters[name], self._noises.rank, len(self._places)
        if ids.dim() != 2 or ids.shape[0] not in (1, rows):
            raise _other_shape(name, ids.shape)
        left = of.left.view(-1, rank, of.left.shape[1])[self._places[:, None], :, ids]
        right = of.right.view(-1, rank, of.right.shape[1])[self._places]  # (rows, rank, columns)
        scales = (self._scales * self._noises.unit).to(left.dtype)
        left = left * scales[:, None, None]  # (rows, width, rank)
        for k in range(rank):  # a product of matrices is slow where they are one wide
            result = torch.addcmul(result, left[:, :, k, None], right[:, k, None])
        return result

    def _shares(
        self, name: str, lead: Sequence[int], of_rows: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Return how each noise counts for each token of a layer, and which do not: both
        (tokens, noises).

        Args:
            lead: the shape of the layer's input, without its features.
            of_rows: what there is for each row.
        """
        key = (of_rows is self._full, dtype, *lead)
        if key not in self._spread:
            spread = self._by_token(lead, of_rows)
            if spread is None:
                raise _other_shape(name, lead)
            self._spread[key] = spread.to(dtype), spread == 0
        return self._spread[key]

    def _by_token(self, lead: Sequence[int], of_rows: Tensor) -> Tensor | None:
        rows, count = of_rows.shape
        if tuple(lead[:1]) == (rows,):
            between = (1,) * (len(lead) - 1)
            return of_rows.view(rows, *between, count).expand(*lead, count).reshape(-1, count)
        if self._predicting is not None and tuple(lead) == (1, len(self._predicting)):
            return of_rows[self._predicting]
        if tuple(lead) == (rows * self._width,):
            return of_rows.repeat_interleave(self._width, dim=0)
        return None


class _Watching(TorchFunctionMode):
    """Notes which tuned parameters are read as `_Reading` can perturb them, and which otherwise."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names
        self.read: set[str] = set()
        self.otherwise: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for place, given in enumerate((*args, *kwargs.values())):
            name = self._names.get(id(given))
            if name is None:
                continue
            if place < len(args) and place in (_WEIGHT.get(func), _BIAS.get(func)):
                self.read.add(name)
            elif isinstance(result, Tensor):  # not its shape or its dtype
                self.otherwise.append(name)
        return result


def _flat(states: Tensor) -> Tensor:
    """Return (tokens, features), a view where that can be one."""
    return states.reshape(-1, states.shape[-1])


def _other_shape(name: str, shape: Sequence[int]) -> ValueError:
    return ValueError(
        f"the layer of {name} is given {tuple(shape)} tokens, expected those of whole sequences: "
        "members cannot share its batch"
    )
