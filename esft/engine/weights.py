"""The weights an engine works on: the one copy of a model's parameters."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain

import torch
from torch import Tensor, nn

from esft.engine.coded import Coded, coded_of
from esft.engine.codes import Grid
from esft.engine.kernels import Kernels, chosen_kernels
from esft.engine.kernels.reference import BLOCK
from esft.engine.noise import Factors

SCRATCH = 64 << 20
"""Bytes of working memory on the device where nothing else is said."""

# Noise, weights before and after and the hash's own buffers: what one element needs while a
# piece is worked on.
_SCRATCH_PER_ELEMENT = 48
# On a CPU a piece that stays in the cache is twice as fast as one that does not (measured).
_CPU_PIECE = 1 << 17
_TUNED = (torch.float32, torch.float16, torch.bfloat16)
# Elements whose rows have vectors at a time: those of all members of a step stay small beside it.
_WITH_VECTORS = 1 << 24


@dataclass(frozen=True)
class Piece:
    """A run of elements of one parameter, small enough for the scratch."""

    name: str
    start: int  # the first element, in row-major order
    flat: Tensor  # view of the weights, (count,), or of their bytes; writing it writes the model
    factors: Factors | None = None  # of its noise
    grid: Grid | None = None  # of its codes, where they are that
    scale: Tensor | None = None  # of its parameter's codes, (rows, groups); see `Quantized`

    @property
    def count(self) -> int:
        """Elements, which may be more than there are in `flat`."""
        return self.flat.numel() * (1 if self.grid is None else self.grid.per_byte)

    def scales(self) -> Tensor:
        """Return the scale of each of its codes, where noise is of low rank: float32 (count,)."""
        size = self.factors.columns // self.scale.shape[1]  # elements of a group
        first, last = self.start // size, (self.start + self.count - 1) // size
        each = self.scale.view(-1)[first : last + 1].float().repeat_interleave(size)
        return each[self.start - first * size :][: self.count]

    def in_steps_(self, values: Tensor) -> Tensor:
        """Divide `values`, float32 (count,) in units of the weights, by the scales of its codes, in
        place: then they are in steps of the grid, and 0 where a step is 0, as codes say nothing."""
        scales = self.scales()
        values /= scales
        return values.masked_fill_(scales == 0, 0)


class Weights:
    """The parameters of a module that are tuned, tied ones once, worked on piece by piece: its
    floating-point ones, or of a quantized model the codes of its linear layers.

    Args:
        model: any module; its parameters are changed in place.
        include: globs on parameter names; None takes all, of a quantized model all codes.
        exclude: globs on names to leave alone; wins over `include`.
        scratch: bytes of working memory on the device.
        kernels: passes over them; None takes the fastest of their device.
        rank: of the noise of matrices, see `Factors`; None has full noise for all, of codes that
            of whole steps. With a rank their biases have full noise too, and other vectors, such as
            norms, are left alone; codes stay as they are, and noise is added to what they stand
            for, by a `BatchedModel`.

    Raises:
        ValueError: if no parameter is left, a glob matches none, one has a dtype that cannot
            be tuned, or more than two dimensions where there is a rank.
    """

    def __init__(
        self,
        model: nn.Module,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        scratch: int = SCRATCH,
        kernels: Kernels | None = None,
        rank: int | None = None,
    ) -> None:
        self.scratch = scratch
        self._claimed = False
        self._held_by: str | None = None
        coded = {name: one for name, one in coded_of(model).items() if one.tuned}
        parameters = _distinct_parameters(model, coded)
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        shapes |= {name: one.shape for name, one in coded.items()}
        self.names = chosen_names(shapes, include, exclude, rank, list(coded))
        """Canonical names of the tuned parameters, in the module's order."""
        self._coded = {name: coded[name] for name in self.names if name in coded}
        for name in self.names:
            dtype = parameters[name].dtype
            if name not in coded and dtype not in _TUNED:
                raise ValueError(f"{name} is {dtype}, expected float32, float16 or bfloat16")
        self._flat = {}
        self._factors = {
            name: Factors(shapes[name][1], rank)
            for name in self.names
            if rank is not None and len(shapes[name]) == 2 and parameters[name].numel()
        }
        for name in self.names:
            # Elements are counted in row-major order; the one copy is laid out so once.
            parameters[name].data = parameters[name].data.contiguous()
            flat = self._flat[name] = parameters[name].data.view(-1)
        self.kernels = chosen_kernels(flat.device) if kernels is None else kernels
        self.numel = sum(map(self.count, self.names))
        """Elements tuned, tied ones counted once."""
        self.nbytes = sum(flat.nbytes for flat in self._flat.values())

    @property
    def coded(self) -> bool:
        """Whether what is tuned is codes, or codes among others."""
        return bool(self._coded)

    @property
    def whole_steps(self) -> bool:
        """Whether members take whole steps of a grid: full noise of codes."""
        return any(name not in self._factors for name in self._coded)

    def flat(self, name: str) -> Tensor:
        """Return the view of one parameter, shape (numel,), or of its bytes; see `Grid`."""
        return self._flat[name]

    def count(self, name: str) -> int:
        """Return the elements of one parameter."""
        return self._flat[name].numel() * self.per_item(name)

    def per_item(self, name: str) -> int:
        """Return how many elements an item of `flat` holds."""
        return self._coded[name].grid.per_byte if name in self._coded else 1

    def grid(self, name: str) -> Grid | None:
        """Return the grid of one parameter's codes; None where it is numbers."""
        return self._coded[name].grid if name in self._coded else None

    def scale(self, name: str) -> Tensor | None:
        """Return the scale of one parameter's codes, (rows, groups), see `Quantized`; or None."""
        return self._coded[name].scale if name in self._coded else None

    def dtype(self, name: str) -> torch.dtype:
        """Return what is computed with one parameter in."""
        return self._coded[name].dtype if name in self._coded else self._flat[name].dtype

    def factors(self, name: str) -> Factors | None:
        """Return what the noise of one parameter is made of; None where it is full."""
        return self._factors.get(name)

    def pieces(self, whole: bool = False, whole_codes: bool = True) -> Iterator[Piece]:
        """Yield the weights in pieces that fit the scratch, always in the same order.

        Pieces start at multiples of BLOCK. `whole`: each parameter in one piece, for passes that
        need no scratch but for vectors of noise of low rank; codes too where `whole_codes`.
        """
        # BLOCK elements at least, whatever the scratch.
        most = max(1, self.scratch // _SCRATCH_PER_ELEMENT // BLOCK) * BLOCK
        for name, flat in self._flat.items():
            size = min(most, _CPU_PIECE) if flat.device.type == "cpu" else most
            if whole and (whole_codes or name not in self._coded):
                size = _WITH_VECTORS if name in self._factors else max(1, self.count(name))
            share = self.per_item(name)
            for start in range(0, self.count(name), size):
                view = flat[start // share : (start + size) // share]
                of = self.factors(name), self.grid(name), self.scale(name)
                yield Piece(name, start, view, *of)

    def claim(self) -> None:
        """Let one drift change the weights from now on; a second would undo its steps."""
        if self._claimed:
            raise ValueError("the weights have a drift already, expected weights without one")
        self._claimed = True

    @contextmanager
    def held(self, by: str) -> Iterator[None]:
        """Claim the weights for the block: no step inside a `perturbed` block, say."""
        if self._held_by is not None:
            raise ValueError(f"{by} while the weights are held by {self._held_by}: leave it first")
        self._held_by = by
        try:
            yield
        finally:
            self._held_by = None


def scratch_bytes(device: str) -> int:
    """Return what working on the weights takes at most on a kind of device: cpu, cuda or mps."""
    return min(SCRATCH, _CPU_PIECE * _SCRATCH_PER_ELEMENT) if device == "cpu" else SCRATCH


def identity(model: nn.Module) -> str:
    """Return the sha256, in hex, over (name, dtype, shape, bytes) of a module's parameters, then of
    the scales and minima of its codes.

    Parameters in the module's order, tied ones once; bytes in row-major order, streamed.
    """
    return _digest(chain(model.named_parameters(), _scales(model)))


def identity_as_saved(model: nn.Module) -> str:
    """Return the `identity` of the model that saving it leaves, which is of floats alone."""
    coded = coded_of(model)

    def floats() -> Iterator[tuple[str, Tensor]]:
        for name, parameter in model.named_parameters():
            one = coded.get(name)
            yield name, parameter if one is None else one.values().to(one.dtype)

    return _digest(floats())


def _scales(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, one in coded_of(model).items():
        yield f"{name}:scale", one.scale
        if one.minimum is not None:
            yield f"{name}:minimum", one.minimum


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, parameter in tensors:
        digest.update(f"{name}|{parameter.dtype}|{tuple(parameter.shape)}|".encode())
        flat = parameter.detach().contiguous().view(-1).view(torch.uint8)
        for start in range(0, flat.numel(), 1 << 24):
            digest.update(flat[start : start + (1 << 24)].cpu().numpy())
    return digest.hexdigest()


def _distinct_parameters(model: nn.Module, coded: Mapping[str, Coded]) -> dict[str, nn.Parameter]:
    """Return the floating-point parameters, and those that are codes, by name; of those that share
    memory, the first."""
    seen: set[tuple[torch.device, int, int]] = set()
    distinct = {}
    for name, parameter in model.named_parameters():
        memory = (parameter.device, parameter.data_ptr(), parameter.numel())
        if not (parameter.is_floating_point() or name in coded):
            continue
        if parameter.numel() and memory in seen:
            continue
        seen.add(memory)
        distinct[name] = parameter
    return distinct


def chosen_names(
    shapes: Mapping[str, tuple[int, ...]],
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    rank: int | None = None,
    coded: Sequence[str] = (),
) -> list[str]:
    """Return those of a model's parameters, of these shapes, that are tuned, of which some may be
    `coded`; ValueError as `Weights`."""
    if isinstance(include, str) or isinstance(exclude, str):
        raise ValueError("include or exclude is a string, expected a list of globs")
    for glob in [*(include or ()), *(exclude or ())]:
        if not any(fnmatchcase(name, glob) for name in shapes):
            raise ValueError(
                f"{glob!r} matches no parameter, expected a glob on names such as "
                f"{next(iter(shapes), '(the model has none)')!r}"
            )
    chosen = [
        name
        for name in shapes
        if (
            (not coded or name in coded)
            if include is None
            else any(fnmatchcase(name, glob) for glob in include)
        )
        and not any(fnmatchcase(name, glob) for glob in exclude or ())
    ]
    for name in chosen if rank is not None else ():
        if len(shapes[name]) > 2:
            raise ValueError(
                f"{name} has {len(shapes[name])} dimensions, expected matrices alone where noise "
                "is of low rank: exclude it, or take full noise"
            )
    if rank is not None:
        chosen = [name for name in chosen if len(shapes[name]) == 2 or _is_of_matrix(name, shapes)]
    if not chosen:
        raise ValueError("no floating-point parameter is left to tune, expected at least one")
    return chosen


def _is_of_matrix(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether a parameter is the bias of a layer whose weight is a matrix."""
    weight = f"{name.removesuffix('bias')}weight"
    return name.endswith("bias") and len(shapes.get(weight, ())) == 2
