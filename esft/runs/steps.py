"""What a run records of its steps, and of the members that were tried before them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Where the seconds of a step went; together they are all of them."""

    engine: float  # perturbing, reverting and the update
    rollout: float  # the model's part of it, and the wait for other ranks
    grading: float  # that the loop waited for grades; most are made while the model goes on
    other: float  # journal, metrics, what is shown
    anchor: float = 0.0  # comparing members with the base model, see `esft.tuning.anchor_kl`

    @property
    def parts(self) -> dict[str, float]:
        """All of them by name, but that of an anchor where there is none."""
        return {name: took for name, took in vars(self).items() if took or name != "anchor"}

    def __str__(self) -> str:
        total = math.fsum(vars(self).values()) or 1.0
        return ", ".join(f"{name} {seconds / total:.1%}" for name, seconds in self.parts.items())


def search_scales(sigma: float, alpha: float, members: int) -> dict[str, float | None]:
    """Return what `StepMetrics` has of a step's sigma and alpha."""
    return {"sigma": sigma, "alpha": alpha, "noise": sigma**2 / members if members else None}


def sum_of_times(times: Iterable[StepTimes | None]) -> StepTimes | None:
    """Return the seconds of several steps together; None where those of none are known."""
    parts = [vars(step) for step in times if step is not None]
    if not parts:
        return None
    return StepTimes(**{name: math.fsum(part[name] for part in parts) for name in parts[0]})


@dataclass(frozen=True, kw_only=True)
class RankShare:
    """What one rank of a torchrun had of a step."""

    members: int
    seconds: float  # in which it rolled them out
    peak_memory: int  # bytes, as that of rank 0 in `StepMetrics`


@dataclass(frozen=True, kw_only=True)
class StepSignal:
    """Whether the rewards of a step tell its members apart; see `esft.tuning.meter`."""

    silent: float  # share of rows on which all members have the same reward
    solved: float | None  # share of rows that all members answer right; None where none were made
    reliability: float | None  # of the members' rewards, at most 1; None of a single row
    chance: float | None  # how often chance alone sets them apart as much; of the first steps
    cut: float | None  # share of answers cut off at max_new_tokens; None where none were made


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """What a step did: a line of metrics.jsonl; None where it is not known or was not finite."""

    step: int
    reward_mean: float | None  # over the members whose reward is finite, as is `correct`
    reward_best: float | None
    correct: float | None = None  # share of rows answered right; None where no answers were made
    kl: float | None = None  # of members from the anchor, mean, in nats a token
    penalty: float | None = None  # what it takes from their reward, which is told without it
    grader_failures: int = 0
    rows: int | None = None  # that each member saw, which the rewards are of
    members: int  # N, those that got a coefficient
    sigma: float | None = None
    alpha: float | None = None
    noise: float | None = None  # sigma^2 / N, which the floor of a run depends on
    signal: StepSignal | None = None
    verdict: str | None = None  # of the signal meter, on the first steps; in the last of them
    drift: float | None  # ||D||
    anchor: float | None = None  # ||E||, where the anchor moves
    forecast: float | None  # the ||D|| to expect by now, with the real coefficients but no signal
    changed: float | None = None  # share of the codes that the step made others; None of floats
    seconds: float | None = None
    times: StepTimes | None = None  # where they went
    peak_memory: int | None = None  # bytes
    batch: int | None = None  # sequences at a time
    ranks: tuple[RankShare, ...] | None = None  # from rank 0 on; None for one process
    replayed: bool = False  # whether it was made again from the journal, which knows no more

    def __post_init__(self) -> None:
        require("step", self.step, 0)


@dataclass(frozen=True, kw_only=True)
class TriedSigma:
    """What members at a noise scale did to the reward, before a run; see `esft.tuning.probe`."""

    sigma: float
    verdict: str
    why: str
    changes: tuple[float, ...]  # of each member's mean reward; NaN where it overflowed


@dataclass(frozen=True, kw_only=True)
class ProbeRecord:
    """The content of probe.json: by what sigma was chosen."""

    members: int  # of each sigma
    rows: int
    base_reward: float
    chosen: float  # of the sigmas
    sigmas: tuple[TriedSigma, ...]


def require(name: str, count: int, least: int, most: float = math.inf) -> None:
    """Raise ValueError for a count that cannot be."""
    if not least <= count <= most:
        to = "or more" if most == math.inf else f"to {most}"
        raise ValueError(f"{name} is {count}, expected {least} {to}")
