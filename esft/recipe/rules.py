"""What the settings of a table, and those of a recipe, must fulfil together."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

from esft.recipe.check import Rule


def _something_to_tune(include: tuple[str, ...] | None) -> Iterator[tuple[str, str]]:
    if include == ():
        yield "at least one glob", 'set include = ["*"] for all'


def _train_has_them(rows_per_step: int | None, train: int | None) -> Iterator[tuple[str, str]]:
    if rows_per_step is not None and train is not None and rows_per_step > train:
        fix = f"set rows_per_step = {train}, or train = {rows_per_step}"
        yield f"at most {train}: a step takes its rows from those of train", fix


MEMBERS = 100_000
"""Members of a step at most."""


def _members_of_a_line(population: int) -> Iterator[tuple[str, str]]:
    if population > MEMBERS:
        expected = f"at most {MEMBERS}: a line of the journal holds the rewards of a step"
        yield expected, f"set population = {MEMBERS}, and more steps"


def _members_in_pairs(population: int, antithetic: bool) -> Iterator[tuple[str, str]]:
    if antithetic and population % 2:
        fix = f"set population = {population + 1}, or antithetic = false"
        yield "an even number: antithetic pairs the members", fix


def _rank_of_low_rank(rank: int, noise: str) -> Iterator[tuple[str, str]]:
    if rank != 1 and noise != "lowrank":
        yield "1: full noise has no rank of its own", 'set noise = "lowrank", or rank = 1'


def _end_of_annealing(end: float | None, anneal: str | None) -> Iterator[tuple[str, str]]:
    if end is not None and anneal is None:
        yield "none: anneal is not set", 'set anneal = "cosine"'


def _a_pull_that_acts(awd: float, norm: str, alpha: float) -> Iterator[tuple[str, str]]:
    """In norm l2, alpha * awd is the share of the drift that goes."""
    if awd > 0 and not sys.float_info.min <= alpha * awd < math.inf:
        way = "less" if alpha * awd > 1 else "0 for none, or more"
        yield f"{way}: alpha * awd is {alpha * awd:g}", "for example awd = 0.01"
    elif norm == "l2" and alpha * awd > 1:
        limit = 1 / alpha
        # Rounded down, since an awd rounded up would be refused again.
        most = math.floor(limit) if 1 <= limit < 1e9 else limit
        expected = f"at most {most} with norm l2: alpha * awd is {alpha * awd:g}, and above 1 a "
        expected += "step jumps past the base weights"
        yield expected, f'set awd = {most} or lower, or norm = "l1"'


SIMULATED = 100_000
"""Steps of a run whose forecast of the drift has no closed form: in norm l1, a millisecond a step,
annealed, or with an anchor that moves."""


def _steps_to_simulate(
    steps: int, awd: float, norm: str, anneal: str | None, move: str, *budgets: float | None
) -> Iterator[tuple[str, str]]:
    if anneal is not None and steps > SIMULATED:
        yield f"at most {SIMULATED} with anneal", f"set steps = {SIMULATED}, or leave anneal out"
    elif move != "none" and steps > SIMULATED:
        yield f"at most {SIMULATED} with move", f'set steps = {SIMULATED}, or move = "none"'
    elif norm == "l1" and (awd > 0 or any(budgets)) and steps > SIMULATED:
        expected = f"at most {SIMULATED} with norm l1, whose forecast is simulated step by step"
        yield expected, f'set steps = {SIMULATED}, or norm = "l2"'


def _evaluations_to_see_a_peak(peak: int | None, every: int | None) -> Iterator[tuple[str, str]]:
    if peak is not None and every is None:
        fix = "set prior.every = 25 (the holdout rows are measured with or without prior tasks)"
        yield "evaluations to count: [prior] every is not set", fix


def _a_drift_to_replay(
    drift: str, awd: float, move: str, weights: str, noise: str
) -> Iterator[tuple[str, str]]:
    if drift == "replay" and weights == "float":
        yield "float32, float16 or int8: only codes can be replayed", 'set drift = "int8"'
    elif drift == "replay" and awd > 0:
        expected = f"float32, float16 or int8: awd is {awd:g}, and no drift is kept that it could "
        yield expected + "shrink", 'set drift = "int8", or awd = 0'
    elif drift == "replay" and move != "none":
        expected = f'float32, float16 or int8: move is "{move}", and the anchor follows a drift '
        yield expected + "that is kept", 'set drift = "int8", or move = "none"'
    elif drift == "replay" and noise == "lowrank":
        expected = (
            "float32, float16 or int8: only whole steps can be replayed, and noise is lowrank"
        )
        yield expected, 'set drift = "int8", or noise = "full"'


def _share_of_a_move(tau: float | None, move: str) -> Iterator[tuple[str, str]]:
    if tau is not None and move != "ema":
        yield f'none: move is "{move}", which has no share', 'set move = "ema"'


def _pull_towards_what_moves(move: str, awd: float, kl: float) -> Iterator[tuple[str, str]]:
    if move != "none" and not awd and not kl:
        expected = '"none": awd and kl are 0, so that nothing pulls towards the anchor'
        yield expected, "set awd = 0.01, or kl = 1.0"


def _prompts_a_step(value: object, kl: float) -> Iterator[tuple[str, str]]:
    if value is not None and not kl:
        yield "none: kl is 0, so that no member is compared", "set kl = 1.0"


def _prompts_of_a_kl(value: object, kl: float, most: float | None) -> Iterator[tuple[str, str]]:
    if value is not None and not kl and most is None:
        expected = "none: kl is 0 and max_kl not set, so that nothing is compared"
        yield expected, "set kl = 1.0, or max_kl = 0.05"


def _prompts_for_a_kl(
    kl: float | None, sources: tuple[str, ...] | None, priors: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    if kl and not sources and not priors:
        expected = "prompts to measure it on: there is no prior task whose train rows they could be"
        yield expected, 'add --prior TASK, or set kl_tasks = ["prompts.txt"], a prompt a line'


def _evaluations_of_a_budget(most: float | None, every: int | None) -> Iterator[tuple[str, str]]:
    if most is not None and every is None:
        fix = "set prior.every = 10 (the holdout rows are measured with or without prior tasks)"
        yield "evaluations that could be above it: [prior] every is not set", fix


def _a_decay_for_a_budget(most: float | None, drift: str) -> Iterator[tuple[str, str]]:
    if most is not None and drift == "replay":
        expected = "none: drift is replay, which keeps nothing that a stronger decay could shrink"
        yield expected, 'set drift = "int8"'


MODEL_RULES: tuple[Rule, ...] = ((("include",), _something_to_tune),)

TASK_RULES: tuple[Rule, ...] = ((("rows_per_step", "train"), _train_has_them),)

SEARCH_RULES: tuple[Rule, ...] = (
    (("population",), _members_of_a_line),
    (("population", "antithetic"), _members_in_pairs),
    (("rank", "noise"), _rank_of_low_rank),
    (("sigma_end", "anneal"), _end_of_annealing),
    (("alpha_end", "anneal"), _end_of_annealing),
)

ANCHOR_RULES: tuple[Rule, ...] = ((("tau", "move"), _share_of_a_move),)

_SIMULATES = ("search.steps", "anchor.awd", "anchor.norm", "search.anneal", "anchor.move")
_SIMULATES += ("anchor.max_kl", "anchor.max_drift")
_OF_DRIFT = "anchor.drift", "anchor.awd", "anchor.move", "model.weights", "search.noise"

RECIPE_RULES: tuple[Rule, ...] = (
    (("anchor.kl", "anchor.kl_tasks", "prior.tasks"), _prompts_for_a_kl),
    (("anchor.max_kl", "anchor.kl_tasks", "prior.tasks"), _prompts_for_a_kl),
    (("anchor.kl_tasks", "anchor.kl", "anchor.max_kl"), _prompts_of_a_kl),
    (("anchor.kl_prompts", "anchor.kl", "anchor.max_kl"), _prompts_of_a_kl),
    (("anchor.kl_per_step", "anchor.kl"), _prompts_a_step),
    (("anchor.max_kl", "prior.every"), _evaluations_of_a_budget),
    (("anchor.max_drift", "prior.every"), _evaluations_of_a_budget),
    (("anchor.max_kl", "anchor.drift"), _a_decay_for_a_budget),
    (("anchor.max_drift", "anchor.drift"), _a_decay_for_a_budget),
    (("anchor.awd", "anchor.norm", "search.alpha"), _a_pull_that_acts),
    (("anchor.move", "anchor.awd", "anchor.kl"), _pull_towards_what_moves),
    (_SIMULATES, _steps_to_simulate),
    (_OF_DRIFT, _a_drift_to_replay),
    (("run.stop_after_peak", "prior.every"), _evaluations_to_see_a_peak),
)
