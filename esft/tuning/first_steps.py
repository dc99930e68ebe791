"""What the base model's answers, and the first steps, say of the settings.

**A weak start.** Where three quarters of the base model's answers or more earn 0, members may
hardly differ, and then a step learns next to nothing: said, with what to try.

**Destroyed.** Noise of a sigma too large, or a first update of an alpha too large, leaves nothing
of the model; the rewards of the first two steps show it, and a run that went on would learn from
rubbish. It stops where R, the mean reward of the members, compares like this with B, that of the
base model:

- no reward is below 0 (a share right, a probability): R is at most B / 10;
- else (a log-probability, a reward of the user's own): R lies below B by more than 3 standard
  deviations of a single row, and by more than B lies from 0.

B is that of the holdout rows first. Where it looks so, the base model answers the rows of the step
too (the time of one member, spent only then), and R must compare so with that B as well: hard rows
are no reason. Nor are few right answers: there must be 3 rows or more on which the base model earns
anything, and times the members they must be 40 or more. Members as able as the base model would
earn so much together; a tenth of 40 or less comes about in less than 1e-12 of the cases (Poisson).
Where options are to be chosen, a destroyed model still earns what chance gives, and goes on.
"""

import math
from collections.abc import Sequence
from statistics import fmean, pstdev

from esft.errors import RunError
from esft.rollout.encode import EncodedRow
from esft.rollout.results import Evaluation, mean_reward
from esft.tuning.answers import samples
from esft.tuning.session import Session
from esft.tuning.watcher import Watcher

_WEAK = 0.75
_SHARE, _DEVIATIONS = 0.1, 3.0
_EARNED, _ROWS = 40, 3


def weak_start(session: Session, base: Evaluation, watcher: Watcher) -> None:
    """Say so where most of the base model's answers earn nothing; show the best of them."""
    rewards = [result.reward for result in base.results]
    nothing = sum(reward == 0 for reward in rewards)
    if min(rewards) < 0 or nothing < _WEAK * len(rewards):
        return
    watcher.notice(
        f"{nothing} of {len(rewards)} base answers score 0, so that members may hardly differ. If "
        f"the reward does not move within some steps, try {remedies(session)[0]}"
    )
    if nothing < len(rewards):
        best = max(range(len(rewards)), key=lambda row: rewards[row])
        row, result = session.tasks[0].encoded[best], base.results[best]
        watcher.answers("the best of its answers", samples([row], 1, base=[result]))


def remedies(session: Session) -> tuple[str, str | None]:
    """Return what to try where rewards say little, and which other reward that has; or None."""
    rollout, rows = session.rollout, session.train
    told = all(question.reference for one in rows for question in one.row.questions)
    ways, other = ["easier rows", "a larger model"], None
    if rollout.reward not in ("prob", "logprob") and (rollout.scoring == "choice" or told):
        other = "prob" if rollout.scoring == "choice" else "logprob"
        ways.append(f"--set task.reward={other}, which pays for nearly right answers too")
    elif rollout.reward is None:
        ways.append("a grader that pays for parts of an answer")
    return ", or ".join(ways), other


def refuse_destroyed(
    session: Session, step: int, base: Evaluation, rows: Sequence[EncodedRow], rewards: list[float]
) -> None:
    """Raise RunError where the members of step 1 or 2 show that the model is destroyed.

    `base` is that of the holdout rows, `rewards` are those of the members on `rows`.
    """
    if step > 2:
        return
    mean = fmean(reward for reward in rewards if math.isfinite(reward))
    holdout = [result.reward for result in base.results]
    if not is_destroyed(holdout, fmean(holdout), mean):
        return
    with session.base.drift.at_base():
        same = session.rollout.roll_out(rows)
    earning = sum(result.reward != 0 for result in same)
    if earning < _ROWS or earning * len(rewards) < _EARNED:
        return
    level = mean_reward(same)
    if not is_destroyed([*holdout, *(result.reward for result in same)], level, mean):
        return
    search = session.recipe.search
    what, hint = f"noise of sigma {search.sigma:g} destroys", f"--sigma {search.sigma / 10:g}"
    if step == 2:
        what, hint = (
            f"step 1, with alpha {search.alpha:g}, destroyed",
            "a smaller --alpha, such as ",
        )
        hint += f"{search.alpha / 10:g}, or a smaller --sigma"
    raise RunError(
        f"{what} the model: the mean reward of the {len(rewards)} members of step {step} is "
        f"{mean:.3g}; the base model has {level:.3g} on the same {len(rows)} rows",
        hint=f"start again with {hint}",
    )


def is_destroyed(known: Sequence[float], level: float, mean: float) -> bool:
    """Return whether `mean` lies below `level` as no chance brings it; see the top of the module.

    `known` are rewards of single rows, by which to tell what kind they are and how they differ.
    """
    if min(*known, mean) >= 0:
        return level > 0 and mean <= _SHARE * level
    return mean < level - max(_DEVIATIONS * pstdev(known), abs(level))
