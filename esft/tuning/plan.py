"""What a run is going to do, worked out before its first step."""

import math
from pathlib import Path

from esft.engine.anchor import pull_of
from esft.engine.forecast import IDLE, forecast_norm
from esft.engine.members import expected_squares, population
from esft.engine.perturb import revert_way, unmoved_share
from esft.recipe.settings import Anchor, Search
from esft.tuning.session import Session
from esft.tuning.watcher import Watcher

UNMOVED = 0.1  # a larger share of weights that sigma does not move is warned of


def tell_plan(session: Session, run_path: Path, watcher: Watcher) -> None:
    """Tell what `session` is going to do, and warn of it; passes once over the weights."""
    search, base, loaded = session.recipe.search, session.base, session.base.loaded
    dtype = str(loaded.dtype).removeprefix("torch.")
    device = f"{loaded.device}, kernels: {base.weights.kernels.name}"
    watcher.phase("working out what the run will do")
    member = population(search.seed, 1, search.population, search.antithetic)[0]
    unmoved = unmoved_share(base.weights, member, search.sigma)
    decay, warning = decay_effect(base.weights.numel, search, session.recipe.anchor)
    tuned = f"{base.weights.numel:,} parameters tuned in {len(base.weights.names)} tensors"
    pairs = " in antithetic pairs" if search.antithetic else ""
    steps = (
        f"{search.steps} steps, N {search.population}{pairs}, sigma {search.sigma:g}, "
        f"alpha {search.alpha:g}, {search.shaping}, seed {search.seed}"
    )
    lines = (
        ("model", f"{loaded.id}: {tuned}, {dtype} on {device}"),
        *(("", note) for note in loaded.notes),
        *_task_lines(session),
        ("search", steps),
        ("decay", decay),
        ("sigma", f"leaves {unmoved:.1%} of the weights as they are (rounding to {dtype})"),
        *_anchor_lines(session),
        ("run", str(run_path)),
    )
    watcher.plan(lines)
    if warning is not None:
        watcher.notice(warning)
    if unmoved > UNMOVED:
        watcher.notice(
            f"sigma {search.sigma:g} is too small to move {unmoved:.0%} of the weights in "
            f"{dtype}: raise --sigma, or take --dtype float32"
        )


def decay_effect(numel: int, search: Search, anchor: Anchor) -> tuple[str, str | None]:
    """Return what the decay will do, and a warning where it can do nothing within the run.

    The decay is measured by the forecast of ||D|| with and without it (see `Forecast`).
    """
    size, alpha = search.population, search.alpha
    squares, most = expected_squares(size, search.shaping, search.antithetic)

    def forecast(squares: float, awd: float) -> float:
        return forecast_norm(numel, search.steps, size, squares, alpha, awd, anchor.norm)

    free, held = forecast(squares, 0.0), forecast(squares, anchor.awd)
    told = f"||D|| forecast {held:.3g} after the last step"
    if search.antithetic:
        told += f" (0 to {forecast(most, anchor.awd):.3g}, as rewards of pairs are alike or differ)"
    if anchor.awd == 0:
        return f"none: the drift is free, {told}", None
    pull = pull_of(alpha, anchor.awd, anchor.norm)
    if anchor.norm == "l2":
        # The whole steps after which half of a drift is gone.
        half = 1.0 if pull >= 0.5 else math.log(2) / -math.log1p(-pull)
        whole = f"{math.ceil(half):,}" if half < 1e9 else f"{half:.2g}"
        effect = f"half-life {whole} step{'s' if half > 1 else ''}"
    else:
        walk = alpha / size * math.sqrt(squares)
        effect = f"against a random-walk step of {walk:.2g} a weight"
    text = (
        f"{anchor.norm.upper()}, alpha * lambda {pull:.2g} a step, {effect}; {told}, "
        f"{free:.3g} without"
    )
    if held < (1 - IDLE) * free:
        return text, None
    return text, (
        f"this decay does next to nothing within {search.steps} steps: the forecast of ||D|| is "
        f"{held:.4g} with it and {free:.4g} without; raise --awd or --steps"
    )


def _task_lines(session: Session) -> list[tuple[str, str]]:
    settings, prior, rollout = session.recipe.task, session.recipe.prior, session.rollout
    per_step = settings.train if settings.rows_per_step is None else settings.rows_per_step
    how = rollout.scoring
    if how == "generate":
        how += f" up to {rollout.max_new_tokens} tokens"
    if settings.reward is not None:
        how += f", reward {settings.reward}"
    how += f", {rollout.batches.size} sequences at a time"
    target = (
        f"{session.rollout.task.name} by {how}: {settings.train} train rows, {per_step} a step; "
        f"{settings.holdout} holdout rows"
    )
    lines = [("task", target)]
    if any(session.left_out):
        train, validation = session.left_out
        why = "they ask what another row asks, of their split or of one that stays apart from it"
        lines.append(("", f"left out: {train:,} train and {validation:,} validation rows; {why}"))
    counts = {task.name: len(task.encoded) for task in session.tasks[1:]}
    if not counts:
        return lines
    priors = ", ".join(f"{name} {count} rows" for name, count in counts.items())
    if len(set(counts.values())) == 1:
        priors = f"{', '.join(counts)}: {min(counts.values())} rows each"
    when = "before and after" if prior.every is None else f"every {prior.every} steps"
    return [*lines, ("prior", f"{priors}, {when}")]


def _anchor_lines(session: Session) -> list[tuple[str, str]]:
    anchor, base, device = session.recipe.anchor, session.base, session.base.loaded.device
    lines = [] if base.mapped is None else [("anchor", base.mapped.note)]
    if anchor.store == "device" and device.type != "cpu":
        lines.append(("anchor", f"base weights on {device}"))
    kept = f"drift kept in {anchor.drift}, {base.drift.nbytes / 1e6:,.0f} MB"
    if anchor.store != "disk":
        kept += " with the base weights"
    way = f"subtracting the noise and a log ({kept}, on the host)"
    if revert_way(base.drift) == "restore":
        way = f"restoring base + drift ({kept})"
    return [*lines, ("revert", f"exact, by {way}")]
