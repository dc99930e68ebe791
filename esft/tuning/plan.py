"""What a run is going to do, worked out before its first step."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from esft.engine import Weights
from esft.engine.forecast import Law
from esft.engine.members import Member, population
from esft.engine.noise import steps_taken
from esft.engine.perturb import revert_way, unmoved_share
from esft.engine.replayed import KEPT_STEPS, REPLAY
from esft.models.device import emulates
from esft.models.shape import Shape, shape_of
from esft.recipe.settings import Anchor
from esft.tuning.memory import Batch, Memory, Room, memory_of
from esft.tuning.outlook import changed_by_chance, decay_effect
from esft.tuning.session import Session, Work
from esft.tuning.watcher import Watcher

TIGHT = (
    "this may not fit into memory: esft plan, with the same recipe and options, says what to change"
)
LEAST_CHANGED, MOST_CHANGED = 0.01, 0.7
"""Share of the codes that all steps change by chance: beyond these they do nothing, or no good. Of
updates in units of the weights, with noise of low rank, many steps of a fine grid are as good."""
UNMOVED = 0.1  # a larger share of weights that sigma does not move is warned of


def tell_plan(sessions: Sequence[Session], run_path: Path, watcher: Watcher) -> None:
    """Tell what `sessions`, one or the stages of a chain, are going to do, and warn of it; passes
    over the weights once a stage."""
    for session in sessions:
        if session.whole.stages:
            watcher.phase(stage_words(session))
        _tell_plan(session, run_path, watcher)


def stage_words(work: Work) -> str:
    """Return which stage of a chain it is, and on what."""
    count, task = len(work.whole.stages), work.rollout.task.name
    steps = f"steps {work.before + 1:,} to {work.end:,}"
    return f"stage {work.stage + 1} of {count}: {task}, {steps}"


def _tell_plan(session: Session, run_path: Path, watcher: Watcher) -> None:
    search, base, loaded = session.recipe.search, session.base, session.base.loaded
    dtype = str(loaded.dtype).removeprefix("torch.")
    watcher.phase("working out what the run will do")
    member = population(search.seed, 1, search.population, search.antithetic)[0]
    shared = session.batched is not None  # then noise is added to no weight
    sigma, _ = search.at(search.steps)  # the smallest
    stays = shared or base.weights.coded  # of codes few take a step, but a whole one
    unmoved = 0.0 if stays else unmoved_share(base.weights, member, sigma)
    threads = torch.get_num_threads()
    kernels = f", kernels: {base.weights.kernels.name}"
    if loaded.device.type == "cpu":
        kernels += f", {threads} thread{'s' * (threads > 1)}"
    what, warning = work_lines(session, base.weights.numel, kernels, base.law)
    memory, shape, device = session.memory, shape_of(loaded.model), loaded.device.type
    rest = base.weights.numel, device, session.batches, base.anchor, session.room
    slow = slow_dtype(shape, *rest)
    lines = (
        what[0],
        *(("", note) for note in (*loaded.notes, slow, base.weights.kernels.missing) if note),
        *what[1:],
        ("exact", _exactness(session)),
        *memory_lines(memory, session.room),
        ("run", str(run_path)),
    )
    watcher.plan(lines)
    for warned in (warning, None if memory.fits(session.room) else TIGHT):
        if warned is not None:
            watcher.notice(warned)
    if unmoved > UNMOVED:
        moving = moving_sigma(base.weights, member, sigma)
        instead = f"--sigma {moving:g}"
        if sigma < search.sigma:
            share = float(f"{min(1, 1.05 * moving / search.sigma):.2g}")
            instead = f"--set search.sigma_end={share:g}"
            instead = f"--sigma {moving:g} {instead}" if moving > search.sigma else instead
        watcher.notice(
            f"sigma {sigma:.3g} is too small to move {unmoved:.0%} of the weights in {dtype}: "
            f"{instead} moves most of them, --dtype float32 all"
        )


def moving_sigma(weights: Weights, member: Member, sigma: float) -> float:
    """Return `sigma`, or a larger one in two digits that leaves at most UNMOVED of the weights."""
    while unmoved_share(weights, member, sigma) > UNMOVED:
        sigma = float(f"{1.5 * sigma:.2g}")
    return sigma


def work_lines(
    work: Work, numel: int, how: str = "", law: Law | None = None
) -> tuple[list[tuple[str, str]], str | None]:
    """Return what a run is to do with `numel` weights, as (label, text), and what to warn of.

    `law`: of its noise; None where the weights that say it are not read.
    """
    search, model, coded = work.recipe.search, work.model, work.tunes_codes
    whole_steps = coded and search.low_rank is None
    if law is None and (whole_steps or not coded):
        law = Law(whole_steps=whole_steps)
    decay, warning = "told once the codes are read", None
    if law is not None:
        stages = map(work.whole.at_stage, range(work.stage))
        earlier = [(stage.search, stage.anchor) for stage in stages]
        decay, warning = decay_effect(numel, search, work.recipe.anchor, law, earlier)
    dtype = str(model.dtype).removeprefix("torch.")
    what = f"codes tuned, computing in {dtype}" if coded else f"parameters tuned, {dtype}"
    tuned = f"{numel:,} {what} on {model.device}{how}"
    pairs = " in antithetic pairs" if search.antithetic else ""
    units = " steps of the grid" if whole_steps else ""
    steps = (
        f"{search.steps} steps, N {search.population}{pairs}, sigma {search.sigma:g}{units}, "
        f"alpha {search.alpha:g}, {search.shaping}, seed {search.seed}"
    )
    lines = [("model", f"{model.id}: {tuned}"), *_task_lines(work)]
    lines.append(("search", steps))
    if coded and law is not None:
        changes, too_few = _changes_of_codes(work, law)
        lines.append(("", changes))
        warning = too_few or warning
    if search.anneal is not None:
        sigma, alpha = search.at(search.steps)
        lines.append(
            ("", f"{search.anneal} annealing: sigma ends at {sigma:g}, alpha at {alpha:g}")
        )
    if search.low_rank is not None:
        what = "of matrices, full for their biases; the rest, such as norms, stays as it is"
        lines += [("noise", f"of rank {search.rank} {what}"), ("", _sharing(work))]
    lines.append(("decay", decay))
    if work.prompts is not None:
        lines.append(("anchor", _anchor(work)))
    if work.recipe.anchor.budgeted:
        lines.append(("budget", _budget(work)))
    return lines, warning


def _changes_of_codes(work: Work, law: Law) -> tuple[str, str | None]:
    """Return how many codes members and steps change, and what to warn of."""
    search, whole_steps = work.recipe.search, work.recipe.search.low_rank is None
    changed = changed_by_chance(search, work.recipe.anchor, law)
    member = f"{steps_taken(search.at(1)[0]):.2%} of the codes" if whole_steps else "no code"
    text, warning = f"a member changes {member}, all steps {changed:.2%} by chance", None
    found = f"all steps together change about {changed:.2%} of the codes, expected"
    if whole_steps and not LEAST_CHANGED <= changed <= MOST_CHANGED:
        warning = (
            f"{found} {LEAST_CHANGED:.0%} to {MOST_CHANGED:.0%}: sigma and alpha are in steps of "
            "the grid; published are --sigma 0.01 --alpha 2.5 for 4 bits, 0.001 and 5 for 8"
        )
    elif changed < LEAST_CHANGED:
        warning = f"{found} {LEAST_CHANGED:.0%} or more: raise --alpha"
    return text, warning


def _budget(work: Work) -> str:
    anchor = work.recipe.anchor
    limits = {"KL": anchor.max_kl, "||D||": anchor.max_drift}
    most = " and ".join(f"{name} {value:g}" for name, value in limits.items() if value)
    back = "above, the run goes back and takes a stronger decay"
    return f"{most} at most, every {work.recipe.prior.every} steps: {back}"


def _anchor(work: Work) -> str:
    prompts = work.prompts
    where = f"{prompts.count} prompts of {', '.join(prompts.of)}"
    if not work.recipe.anchor.kl:
        return f"KL from the base is measured on {where}, up to {prompts.new_tokens} new tokens"
    if prompts.per_step < prompts.count:
        where += f", {prompts.per_step} a step in turn"
    of = {"none": "the base", "ema": "an anchor that follows the weights"}
    of = of.get(
        work.recipe.anchor.move, "where the stage before ended" if work.stage else "the base"
    )
    return (
        f"a nat of KL from {of} takes {work.recipe.anchor.kl:g} from a member's reward; on "
        f"{where}, up to {prompts.new_tokens} new tokens: {prompts.share:.0%} more tokens a member"
    )


def _sharing(work: Work) -> str:
    """Return how many members share a batch, and where that brings nothing."""
    together = work.members_together
    if together == 1:
        return (
            f"no batch is shared: the {work.sequences} sequences of a member fill one, or there is "
            "no memory for more; this noise brings no speed then"
        )
    text = f"{together} members share a batch, {together * work.sequences} sequences"
    shape = shape_of(work.model.model)
    longest = max(one.tokens + one.answer for one in work.batches)
    if work.sequences * longest * shape.token_bytes >= shape.nbytes:
        text += "; their texts are so long that it brings little"
    return text


def memory_lines(memory: Memory, room: Room) -> list[tuple[str, str]]:
    """Return what a run takes of what was free before its model was loaded."""
    parts = [f"{name} {in_bytes(size)}" for name, size in memory.device.items()]
    either = " or ".join(f"{name} {in_bytes(size)}" for name, size in memory.passing.items())
    took = f"{in_bytes(memory.on_device)} of {in_bytes(room.device)} free"
    lines = [("memory", f"{took}: {', '.join(parts)}, {either}")]
    if memory.host:
        parts = [f"{name} {in_bytes(size)}" for name, size in memory.host.items()]
        took = f"{in_bytes(memory.on_host)} of {in_bytes(room.host)} free on the host"
        lines.append(("", f"{took}: {', '.join(parts)}"))
    return lines


def in_bytes(size: int) -> str:
    """Return a number of bytes in MB, or in GB from 1 GB on."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{math.ceil(size / 1e6)} MB"


def slow_dtype(
    shape: Shape, tuned: int, device: str, batches: Sequence[Batch], anchor: Anchor, room: Room
) -> str | None:
    """Return what makes a run slow where float32 is faster and fits, and None where it does not."""
    if not emulates(torch.device(device), getattr(torch, shape.dtype)):
        return None
    whole = replace(shape, dtype="float32")
    if not memory_of(whole, tuned, anchor, device, batches).fits(room):
        return None
    return (
        f"this CPU has no units for {shape.dtype} and is about 6 times faster in float32, which "
        "takes twice the memory and fits: --dtype float32"
    )


def _task_lines(work: Work) -> list[tuple[str, str]]:
    settings, prior, rollout = work.recipe.task, work.recipe.prior, work.rollout
    per_step = settings.train if settings.rows_per_step is None else settings.rows_per_step
    how = rollout.scoring
    if how == "generate":
        how += f" up to {rollout.max_new_tokens} tokens"
    if settings.reward is not None:
        how += f", reward {settings.reward}"
    how += f", {rollout.batches.size} sequences at a time"
    target = (
        f"{rollout.task.name} by {how}: {settings.train} train rows, {per_step} a step; "
        f"{settings.holdout} holdout rows"
    )
    lines = [("task", target)]
    if any(work.left_out):
        train, validation = work.left_out
        why = "they ask what another row asks, of their split or of one that stays apart from it"
        lines.append(("", f"left out: {train:,} train and {validation:,} validation rows; {why}"))
    lines += [("", task.note) for task in work.tasks if task.note is not None]
    counts = {task.name: len(task.encoded) for task in work.tasks[1:]}
    if not counts:
        return lines
    priors = ", ".join(f"{name} {count} rows" for name, count in counts.items())
    if len(set(counts.values())) == 1:
        priors = f"{', '.join(counts)}: {min(counts.values())} rows each"
    when = "before and after" if prior.every is None else f"every {prior.every} steps"
    return [*lines, ("prior", f"{priors}, {when}")]


def _exactness(session: Session) -> str:
    """Return how each trial is undone, and where what that takes lies."""
    base, anchor = session.base, session.base.anchor
    at = base.loaded.device if anchor.store == "device" else "the host"
    lies = f"base weights copied on {at}" if base.mapped is None else base.mapped.note
    if anchor.store == "disk" != session.recipe.anchor.store:
        lies += ", since memory for a copy is short"
    if anchor.drift == REPLAY:
        return (
            f"each trial is undone to the bit, by a log; no drift is kept: each update makes the "
            f"last {KEPT_STEPS} again, {KEPT_STEPS + 1} times the time of one; {lies}"
        )
    kept = f"the drift kept in {anchor.drift}"
    if session.batched is not None:
        return f"no trial changes a weight; {kept}, {lies}"
    if revert_way(base.drift) == "restore":
        return f"each trial is undone to the bit, from {kept} and {lies}"
    return f"each trial is undone to the bit, by a log; {kept}, {lies}"
