"""Where the stages of a chain end, what they tune on, and what became of it in words."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from esft.files import slug
from esft.recipe.settings import Recipe
from esft.stats.forgetting import Forgetting, TaskStages, Transfer, forgetting


def ends_of(recipe: Recipe | None, last: int) -> tuple[int, ...]:
    """Return the last step of each stage, that of the base model, 0, first, up to the last step
    made; none where no stage is over, or there are none."""
    if recipe is None or not recipe.stages:
        return ()
    ends = accumulate(stage.steps for stage in recipe.stages)
    over = [end for end in ends if end <= last]
    return (0, *over) if over else ()


def stages_of(recipe: Recipe, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return by the name of a task the first and the last stage, from 1, that tunes on it."""
    stages: dict[str, tuple[int, int]] = {}
    for number in range(len(recipe.stages)):
        kept_as = recipe.at_stage(number).task.kept_as
        first, _ = stages.get(kept_as, (number + 1, 0))
        stages[kept_as] = first, number + 1
    # By the names of files, for which no file of a task has to be there.
    return {name: stages[slug(name)] for name in names if slug(name) in stages}


def matrix_of(
    recipe: Recipe, ends: Sequence[int], right: Mapping[str, Mapping[int, Sequence[float]]]
) -> Forgetting | None:
    """Return the forgetting matrix of a chain; None where no stage is over, or no task says right
    or wrong. `ends` by `ends_of`, `right` as `forgetting` has it."""
    measured = {name: by_step for name, by_step in right.items() if by_step}
    return forgetting(ends, stages_of(recipe, measured), measured) if ends and measured else None


def forgetting_lines(matrix: Forgetting) -> list[str]:
    """Return the matrix in words: the head, a line a task and one for each mean."""
    last = len(matrix.steps) - 1
    head = ", ".join(f"{stage}: step {step}" for stage, step in enumerate(matrix.steps) if stage)
    lines = [f"share right after each stage, in brackets after its own ({head})"]
    width = max(len(task.task) for task in matrix.tasks)
    for task in matrix.tasks:
        lines.append(f"  {task.task:<{width}}  {_shares(task, last)}")
    for task in matrix.tasks:
        what = "kept since the base" if task.stage is None else f"kept since stage {task.stage}"
        changes = {"learned": task.learned, what: task.kept, "forward": task.forward}
        words = [f"{name} {points(one)}" for name, one in changes.items() if one is not None]
        lines += [f"  {task.task:<{width}}  {text}" for text in words]
    if matrix.backward is not None:
        lines.append(f"backward transfer {points(matrix.backward)} (below 0: forgotten)")
    if matrix.forward is not None:
        lines.append(f"forward transfer {points(matrix.forward)} (before its own stage)")
    return lines


def points(change: Transfer) -> str:
    """Return a change in points with its interval."""
    low, high = 100 * change.low, 100 * change.high
    return f"{100 * change.change:+.1f} points ({low:+.1f} to {high:+.1f})"


def _shares(task: TaskStages, last: int) -> str:
    by_stage = {share.stage: share.accuracy for share in task.shares}
    cells = []
    for stage in range(last + 1):
        share = f"{by_stage[stage]:.3f}" if stage in by_stage else "-"
        cells.append(f"[{share}]" if stage and stage == task.stage else f" {share} ")
    return "".join(f"{cell:>8}" for cell in cells).rstrip()
