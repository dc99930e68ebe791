"""What a run is going to do, worked out before its first step."""

import math
from dataclasses import dataclass

from esft.engine.anchor import pull_of
from esft.engine.forecast import IDLE, forecast_norm
from esft.engine.members import population
from esft.engine.perturb import revert_way, unmoved_share
from esft.recipe.settings import Anchor, Search
from esft.tuning.session import Session

UNMOVED = 0.1
"""A larger share of weights that sigma does not move is warned of."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The first lines of a run, as (label, text), with the warnings that belong to them."""

    lines: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


def make_plan(session: Session, run_path: str) -> Plan:
    """Return what `session` is going to do; passes once over the weights."""
    search, anchor = session.recipe.search, session.recipe.anchor
    member = population(search.seed, 1, search.population, search.antithetic)[0]
    unmoved = unmoved_share(session.weights, member, search.sigma)
    decay, warning = decay_effect(session.weights.numel, search, anchor)
    warnings = [] if warning is None else [warning]
    if unmoved > UNMOVED:
        warnings.append(
            f"sigma {search.sigma:g} is too small to move {unmoved:.0%} of the weights in "
            f"{_dtype(session)}: raise --sigma, or take --dtype float32"
        )
    lines = (
        ("model", _model_line(session)),
        *(("", note) for note in session.loaded.notes),
        ("task", _task_line(session)),
        *(("prior", line) for line in _prior_lines(session)),
        ("search", _search_line(search)),
        ("decay", decay),
        (
            "sigma",
            f"leaves {unmoved:.1%} of the weights as they are (rounding to {_dtype(session)})",
        ),
        *(("anchor", line) for line in _anchor_lines(session)),
        ("revert", _revert_line(session)),
        ("run", run_path),
    )
    return Plan(lines=lines, warnings=tuple(warnings))


def decay_effect(numel: int, search: Search, anchor: Anchor) -> tuple[str, str | None]:
    """Return what the decay will do, and a warning where it can do nothing within the run.

    The decay is measured by the forecast of ||D|| with and without it (see `Forecast`).
    """
    free = forecast_norm(numel, search.steps, search.population, search.alpha)
    if anchor.awd == 0:
        return f"none: the drift is free, ||D|| forecast {free:.3g} after the last step", None
    pull = pull_of(search.alpha, anchor.awd, anchor.norm)
    held = forecast_norm(
        numel, search.steps, search.population, search.alpha, anchor.awd, anchor.norm
    )
    if anchor.norm == "l2":
        effect = f"half-life {_half_life(pull)}"
    else:
        walk = search.alpha / math.sqrt(search.population)
        effect = f"against a random-walk step of {walk:.2g} a weight"
    text = (
        f"{anchor.norm.upper()}, alpha * lambda {pull:.2g} a step, {effect}; "
        f"||D|| forecast {held:.3g} after the last step, {free:.3g} without"
    )
    if held < (1 - IDLE) * free:
        return text, None
    return text, (
        f"this decay does next to nothing within {search.steps} steps: the forecast of ||D|| is "
        f"{held:.4g} with it and {free:.4g} without; raise --awd or --steps"
    )


def _half_life(pull: float) -> str:
    """Return the whole steps after which half of a drift is gone."""
    steps = 1 if pull >= 0.5 else math.ceil(math.log(2) / -math.log1p(-pull))
    return f"{steps:,} step{'s' if steps > 1 else ''}"


def _dtype(session: Session) -> str:
    return str(session.loaded.dtype).removeprefix("torch.")


def _model_line(session: Session) -> str:
    loaded, tuned = session.loaded, session.weights.numel
    return (
        f"{loaded.id}: {tuned:,} parameters tuned in {len(session.weights.names)} tensors, "
        f"{_dtype(session)} on {loaded.device}"
    )


def _task_line(session: Session) -> str:
    settings, rollout = session.recipe.task, session.rollout
    per_step = settings.train if settings.rows_per_step is None else settings.rows_per_step
    how = rollout.scoring
    if how == "generate":
        how += f" up to {rollout.max_new_tokens} tokens"
    if settings.reward is not None:
        how += f", reward {settings.reward}"
    return (
        f"{session.task.name} by {how}: {settings.train} train rows, {per_step} a step; "
        f"{settings.holdout} holdout rows"
    )


def _prior_lines(session: Session) -> list[str]:
    """Return what is said of the prior tasks: nothing where there are none."""
    prior = session.recipe.prior
    if not session.priors:
        return []
    counts = [len(each.encoded.rows) for each in session.priors]
    when = "before and after" if prior.every is None else f"every {prior.every} steps"
    if len(set(counts)) == 1:
        names = ", ".join(each.name for each in session.priors)
        return [f"{names}: {counts[0]} rows each, {when}"]
    pairs = zip(session.priors, counts, strict=True)
    return [", ".join(f"{each.name} {count} rows" for each, count in pairs) + f", {when}"]


def _search_line(search: Search) -> str:
    pairs = " in antithetic pairs" if search.antithetic else ""
    return (
        f"{search.steps} steps, N {search.population}{pairs}, sigma {search.sigma:g}, "
        f"alpha {search.alpha:g}, {search.shaping}, seed {search.seed}"
    )


def _anchor_lines(session: Session) -> list[str]:
    """Return where the base weights and the drift lie, where that is not the usual way."""
    anchor, mapped = session.recipe.anchor, session.base.mapped
    lines = [] if mapped is None else [mapped.note]
    if anchor.store == "device" and session.loaded.device.type != "cpu":
        lines.append(f"base weights on {session.loaded.device}")
    return lines


def _revert_line(session: Session) -> str:
    anchor, nbytes = session.recipe.anchor, session.drift.nbytes
    kept = f"drift kept in {anchor.drift}, {nbytes / 1e6:,.0f} MB"
    if anchor.store != "disk":
        kept += " with the base weights"
    if revert_way(session.drift) == "restore":
        return f"exact, by restoring base + drift ({kept})"
    return f"exact, by subtracting the noise and a log ({kept}, on the host)"
