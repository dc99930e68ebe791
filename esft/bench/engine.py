"""The engine's part of a step: its passes over weights, against the published way."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from esft.bench import published
from esft.bench.timing import Machine, Seconds, Spread, Work, in_turns, machine, ratio, spread
from esft.engine import Drift, Member, Weights, visiting
from esft.engine.kernels import Kernels, chosen_kernels
from esft.engine.members import population
from esft.models.device import choose_device, parse_dtype
from esft.models.load import load_model

SIGMA, ALPHA, L1 = 1e-3, 5e-4, 0.01
"""The published settings."""

PUBLISHED = "published"
PASSES = ("noise", "perturb", "revert", "perturb by log", "revert by log", "update")

_FEW = 2  # of the N noises of an update, which are all alike: slow ways are timed with so many
_FEW_NOISES, _DECAYED = "few noises", "few noises with decay"
_DRIFT = "float16"  # how it is kept
_SLICE = 1 << 22  # elements whose noise is drawn, or that are copied, at once
_COPY = 1 << 27  # elements at most that a copy is made to: far more than a cache has


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What the engine is timed on."""

    model: str | None = None  # whose weights; None makes random ones of SmolLM2-135M's shapes
    dtype: str | None = None  # None takes the model's own, bfloat16 without one
    device: str | None = None
    members: int = 30  # N, at least 2
    rounds: int = 3


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass over all weights, done in one way."""

    operation: str  # one of `PASSES`
    way: str  # "published", or the name of the kernels
    seconds: Spread
    elements_per_second: float  # in an update: noises of elements
    gb_per_second: float | None  # of weights, base weights and drift; None where there is no other
    copy_share: float | None  # of the rate at which torch copies weights
    speedup: Spread | None  # the published way's seconds over these; None where it has none


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """The engine's seconds in a step of N members: perturb, revert, update."""

    way: str
    revert: str  # how members are undone: "restore" or "log"; published: "subtract"
    seconds: Spread
    speedup: Spread | None  # None for the published way itself


@dataclass(frozen=True, kw_only=True)
class EngineBench:
    """What `bench_engine` measured."""

    machine: Machine
    model: str
    device: str
    dtype: str
    elements: int
    nbytes: int  # of the weights
    members: int
    rounds: int
    kernels: str  # those that esft chooses here
    drift: str  # how it is kept; beside the weights, as theta_0 is
    copy_gb_per_second: Spread
    passes: tuple[Pass, ...]
    steps: tuple[StepTime, ...]
    decay: Spread
    """Seconds that an update takes longer with an L1 decay, in the chosen kernels."""


def bench_engine(settings: EngineSettings) -> EngineBench:
    """Time the engine's passes in plain torch, in the chosen kernels and in the published way.

    Updates of the first and the last are timed with two noises, and the others added as timed by
    themselves. ModelError if there is no such model.
    """
    model, name = _model(settings)
    weights = Weights(model)
    drift, device = Drift(weights, "device", _DRIFT), weights.flat(weights.names[0]).device
    forms = {kernels.name: kernels for kernels in (Kernels(), chosen_kernels(device))}
    dtype, chosen = weights.flat(weights.names[0]).dtype, list(forms)[-1]
    # What is compiled at its first call; and memory has its pages from the first writing on.
    small = Drift(Weights(_module({"a": (1000,), "b": (3, 70)}, dtype, device)), "device", _DRIFT)
    in_turns(_ways(small, forms, settings.members), 1, device)
    drift.step([Member(1)], [1.0], ALPHA)
    seconds = in_turns(_ways(drift, forms, settings.members), settings.rounds, device)
    copied = spread([2 * weights.nbytes / taken / 1e9 for taken in seconds.pop("copy")["copy"]])
    decayed = seconds[chosen].pop(_DECAYED)
    _whole_updates(seconds, settings.members)
    return EngineBench(
        machine=machine(),
        model=name,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        elements=weights.numel,
        nbytes=weights.nbytes,
        members=settings.members,
        rounds=settings.rounds,
        kernels=chosen,
        drift=_DRIFT,
        copy_gb_per_second=copied,
        passes=tuple(
            _pass(seconds, way, operation, settings.members, weights, copied.median)
            for operation in PASSES
            for way in seconds
            if operation in seconds[way]
        ),
        steps=tuple(_steps(seconds, settings.members)),
        decay=spread([a - b for a, b in zip(decayed, seconds[chosen][_FEW_NOISES], strict=True)]),
    )


def _whole_updates(seconds: Seconds, members: int) -> None:
    """Give the ways that were timed with a few noises the time of an update with all of them."""
    for way in seconds.values():
        if "update" not in way:
            pairs = zip(way[_FEW_NOISES], way["noise"], strict=True)
            way["update"] = [few + (members - _FEW) * one for few, one in pairs]


def _model(settings: EngineSettings) -> tuple[nn.Module, str]:
    if settings.model is not None:
        loaded = load_model(settings.model, dtype=settings.dtype, device=settings.device)
        return loaded.model, loaded.id
    dtype = torch.bfloat16 if settings.dtype is None else parse_dtype(settings.dtype)
    return _module(smollm2_shapes(), dtype, choose_device(settings.device)), "SmolLM2-135M's shapes"


def smollm2_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of SmolLM2-135M's parameters by name; the output layer is the embedding."""
    hidden, inner, keys, layers, vocabulary = 576, 1536, 192, 30, 49152
    layer = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for number in range(layers):
        shapes |= {f"model.layers.{number}.{name}.weight": s for name, s in layer.items()}
    return shapes | {"model.norm.weight": (hidden,)}


def _module(
    shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """Make a module that is nothing but random parameters of these names and shapes."""
    module, draw = nn.Module(), torch.Generator(device).manual_seed(0)
    for name, shape in shapes.items():
        *path, last = name.split(".")
        inner = module
        for part in path:
            if not hasattr(inner, part):
                inner.add_module(part, nn.Module())
            inner = getattr(inner, part)
        values = torch.randn(shape, generator=draw, dtype=dtype, device=device).mul_(0.05)
        inner.register_parameter(last, nn.Parameter(values, requires_grad=False))
    return module


def _ways(drift: Drift, forms: dict[str, Kernels], members: int) -> dict[str, Work]:
    """Return what is timed: the published way, each form of the kernels, and a plain copy."""
    tensors = [drift.weights.flat(name) for name in drift.weights.names]
    parts = [part for tensor in tensors for part in tensor.split(_SLICE)]
    room = tensors[0].new_empty(max(_SLICE, min(_COPY, drift.weights.numel)))

    def copy() -> None:
        at = 0
        for part in parts:
            at = 0 if at + part.numel() > room.numel() else at
            room[at : at + part.numel()].copy_(part)
            at += part.numel()

    copy()
    timed = {
        PUBLISHED: {
            "noise": lambda: [None for _ in published.noises(tensors, 1)],
            "perturb": lambda: published.perturb_(tensors, 1, SIGMA),
            "revert": lambda: published.perturb_(tensors, 1, -SIGMA),
            _FEW_NOISES: lambda: published.update_(tensors, range(_FEW), [1.0] * _FEW, ALPHA),
        },
        "copy": {"copy": copy},
    }
    for name, kernels in forms.items():
        timed[name] = _passes(drift, kernels, members, chosen=name == list(forms)[-1])
    return timed


def _passes(drift: Drift, kernels: Kernels, members: int, *, chosen: bool) -> Work:
    """Return the engine's passes by one form of the kernels; of the chosen one all of them."""
    weights, held = drift.weights, ExitStack()
    sizes = {name: weights.flat(name).numel() for name in weights.names}
    buffer = torch.zeros(
        min(_SLICE, max(sizes.values())), device=weights.flat(weights.names[0]).device
    )

    def noise() -> None:
        for name, size in sizes.items():
            for start in range(0, size, _SLICE):
                part = buffer[: min(_SLICE, size - start)]
                kernels.accumulate(part, name, start, [(1, 1.0)])

    def perturb(revert: str) -> None:
        weights.kernels = kernels
        held.enter_context(visiting(weights, SIGMA, drift, revert))(Member(1))

    def update(count: int, decay: float = 0.0) -> None:
        weights.kernels = kernels
        drift.step(population(1, 1, count), [1.0] * count, ALPHA, decay, "l1")

    works: dict[str, Callable[[], object]] = {
        "noise": noise,
        "perturb": lambda: perturb("restore"),
        "revert": held.close,
        _FEW_NOISES: lambda: update(_FEW),
    }
    if chosen:
        works |= {
            "perturb by log": lambda: perturb("log"),
            "revert by log": held.close,
            _DECAYED: lambda: update(_FEW, L1),
            "update": lambda: update(members),
        }
    return works


def _pass(
    seconds: Seconds, way: str, operation: str, members: int, weights: Weights, copied: float
) -> Pass:
    taken = seconds[way][operation]
    theirs = seconds[PUBLISHED][operation.removesuffix(" by log")]
    rate = weights.numel / spread(taken).median
    moved = _moved_bytes(way, operation, weights.nbytes // weights.numel)
    gb = None if moved is None else moved * rate / 1e9
    return Pass(
        operation=operation,
        way=way,
        seconds=spread(taken),
        elements_per_second=rate * (members if operation == "update" else 1),
        gb_per_second=gb,
        copy_share=None if gb is None else gb / copied,
        speedup=None if way == PUBLISHED else ratio(theirs, taken),
    )


def _moved_bytes(way: str, operation: str, size: int) -> int | None:
    """Return the bytes that a pass reads and writes at least, for each weight of `size` bytes.

    A published update reads and writes the weights once a member, which is none of this.
    """
    if operation == "noise" or (way == PUBLISHED and operation == "update"):
        return None
    if way == PUBLISHED or operation.endswith(" by log"):
        return 2 * size
    # theta_0 and D, two bytes, are read and weights written; an update writes D, too.
    return 2 * size + (4 if operation == "update" else 2)


def _steps(seconds: Seconds, members: int) -> list[StepTime]:
    """Return the engine's time of a step, round by round from its passes, for each way."""

    def total(way: str, perturb: str, revert: str, reverts: int) -> list[float]:
        of = seconds[way]
        parts = zip(of[perturb], of[revert], of["update"], strict=True)
        return [members * p + reverts * r + update for p, r, update in parts]

    theirs = total(PUBLISHED, "perturb", "revert", members)
    steps = [StepTime(way=PUBLISHED, revert="subtract", seconds=spread(theirs), speedup=None)]
    for way in seconds:
        if way == PUBLISHED:
            continue
        # Restoring members are written over one another; only the last is undone.
        totals = {"restore": total(way, "perturb", "revert", 1)}
        if "perturb by log" in seconds[way]:
            totals["log"] = total(way, "perturb by log", "revert by log", members)
        steps += [
            StepTime(way=way, revert=revert, seconds=spread(t), speedup=ratio(theirs, t))
            for revert, t in totals.items()
        ]
    return steps
