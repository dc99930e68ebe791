"""Whether a machine keeps what esft promises of a model: its bits, and the same answers again."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from esft.embedded import EMBEDDED
from esft.engine.kernels import Kernels
from esft.engine.members import Member
from esft.engine.perturb import perturbed
from esft.engine.weights import Weights, identity
from esft.models.load import LoadedModel
from esft.rollout.batches import Batches
from esft.rollout.generate import greedy_answers
from esft.rollout.rollout import Rollout
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split
from esft.tuning.base import Base
from esft.tuning.verify import FAILED, OK, Check

NOTE = "note"
"""Nothing is broken, but it is worth knowing."""

_ROWS = 16
_SIGMA, _ALPHA, _PULL = 1e-3, 5e-3, 1.0
_STEPS = 3


def exactness(base: Base) -> Iterator[Check]:
    """Check that members and steps leave the bits that esft promises; the model is at a step
    after it."""
    weights, drift = base.weights, base.drift
    begun, state = identity(base.loaded.model), copy.deepcopy(drift.state())
    ways = ["log", *(["restore"] if drift.on_device else [])]
    left = []
    for way in ways:
        with perturbed(weights, Member(1), _SIGMA, drift, way):
            moved = identity(base.loaded.model) != begun
        if not moved or identity(base.loaded.model) != begun:
            left.append(way)
    yield _promised(
        "revert",
        not left,
        f"members are undone to the bit ({' and '.join(ways)})",
        f"a member leaves traces ({' and '.join(left)})",
    )
    once = _steps(base)
    drift.load(state)
    back = identity(base.loaded.model) == begun
    again = _steps(base)
    same = back and once == again and len(set(once)) == _STEPS
    yield _promised(
        "replay",
        same,
        f"{_STEPS} steps, and again from their start: the same bits",
        f"{_STEPS} steps made again give other bits",
    )
    equal = _same_noise(weights, Kernels())
    yield _promised(
        "noise",
        equal,
        f"{weights.kernels.name} draws the bits of plain torch",
        f"{weights.kernels.name} draws other noise than plain torch",
    )


def determinism(loaded: LoadedModel) -> Iterator[Check]:
    """Say whether greedy answers are the same again, in other batches and with other threads."""
    task = get_task("reverse-letters" if loaded.folder == EMBEDDED else "conciseness")
    rollout = Rollout(loaded.model, loaded.tokenizer, task, scoring="generate", max_new_tokens=16)
    encoded = rollout.encode(read_split(task, "validation")[:_ROWS])
    prompts = [prompt for one in encoded for prompt in one.prompts]

    def answers(size: int = _ROWS) -> list[tuple[int, ...]]:
        batches = Batches(size)
        said = greedy_answers(loaded.model, loaded.tokenizer, prompts, 16, batches)
        return [answer.tokens for answer in said]

    first = answers()
    changed = _changed(first, answers())
    yield _promised(
        "again",
        not changed,
        f"{_ROWS} greedy answers are the same when asked again",
        f"{changed} of {_ROWS} greedy answers change when asked again",
    )
    sizes = (1, _ROWS // 2)
    changed = max(_changed(first, answers(size)) for size in sizes)
    yield _noted(
        "batch size",
        changed,
        f"in batches of {sizes[0]} and {sizes[1]} for {_ROWS}",
        "a run keeps the size that it finds; set task.batch to compare runs",
    )
    if loaded.device.type != "cpu":
        return
    threads = torch.get_num_threads()
    other = 1 if threads > 1 else 2
    with _threads(other):
        changed = _changed(first, answers())
    yield _noted(
        "threads",
        changed,
        f"with {other} thread{'s' * (other > 1)} for {threads}",
        "a run keeps its number, also on resume; compare runs of one OMP_NUM_THREADS",
    )


def _steps(base: Base) -> list[str]:
    """Make some steps, each with an update and a decay; return the identities of the weights."""
    made = []
    for step in range(_STEPS):
        members = [Member(2 * step), Member(2 * step + 1)]
        base.drift.step(members, [1.0, -0.5], _ALPHA, _PULL)
        made.append(identity(base.loaded.model))
    return made


def _same_noise(weights: Weights, kernels: Kernels) -> bool:
    """Return whether two forms of the passes draw the same bits for each parameter."""
    seen = set()
    for piece in weights.pieces():
        if piece.name not in seen:  # one of each: all of a large one would take too long
            seen.add(piece.name)
            totals = [torch.zeros(piece.count, device=piece.flat.device) for _ in range(2)]
            for total, form in zip(totals, (weights.kernels, kernels), strict=True):
                form.accumulate(total, piece.name, piece.start, [(7, 0.5), (8, -1.0)])
            if not totals[0].equal(totals[1]):
                return False
    return True


def _changed(ones: Sequence[object], others: Sequence[object]) -> int:
    return sum(one != other for one, other in zip(ones, others, strict=True))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _promised(what: str, kept: bool, text: str, broken: str) -> Check:
    if kept:
        return Check(what=what, result=OK, text=text)
    hint = "results of this machine cannot be trusted to the bit: try another version of torch, "
    return Check(what=what, result=FAILED, text=broken, hint=f"{hint}and tell the makers of esft")


def _noted(what: str, changed: int, how: str, hint: str) -> Check:
    if not changed:
        return Check(what=what, result=OK, text=f"{_ROWS} greedy answers are the same {how}")
    text = f"{changed} of {_ROWS} greedy answers change {how}"
    return Check(what=what, result=NOTE, text=text, hint=hint)
