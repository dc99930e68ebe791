"""The tasks that are measured: prior tasks and the target of a run, nothing scored twice."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from esft.errors import EsftError, RunError
from esft.evals.results import FailedTask, NoiseFloor
from esft.evals.steps import Steps
from esft.models.load import LoadedModel
from esft.recipe.priors import PriorSpec
from esft.recipe.settings import Prior, Recipe, TaskSettings
from esft.rollout.batches import Batches
from esft.rollout.evaluate import Cache, evaluate
from esft.rollout.results import Evaluation
from esft.rollout.rollout import Rollout
from esft.tuning.tasks import EvalTask, eval_task, rows_of, task_and_rows
from esft.tuning.watcher import Watcher


@dataclass(frozen=True, kw_only=True)
class MeasuredTask:
    """A task on every step."""

    task: EvalTask
    evaluations: tuple[Evaluation, ...]  # one a step, in the order of the steps


def eval_tasks(
    loaded: LoadedModel,
    recipe: Recipe | None,
    priors: Sequence[PriorSpec],
    *,
    rows: int | None,
    data_dir: str | None,
    batch: int | None,
) -> tuple[tuple[EvalTask, ...], tuple[FailedTask, ...]]:
    """Return the tasks that can be measured, and those that cannot; RunError if none can.

    Args:
        recipe: of the run, whose target is measured on its holdout rows; None where there is none.
        rows: of a prior task that names no number; None takes the recipe's.
        data_dir: folder of the rows of tasks that are on the hub; None takes the recipe's.
        batch: sequences at a time; None finds it.
    """
    rows = rows or (Prior() if recipe is None else recipe.prior).rows
    data_dir = data_dir or (None if recipe is None else recipe.task.data_dir)
    tasks, failed = [], []
    for wanted in (*([] if recipe is None else [recipe.task]), *priors):
        try:
            if isinstance(wanted, TaskSettings):
                task, split = task_and_rows(wanted)
                role, chosen = "target", split.holdout
            else:
                prior = rows_of(wanted, rows, data_dir)
                task, role, chosen = prior.task, "prior", prior.rows
            tasks.append(eval_task(role, task, wanted, chosen, loaded, Batches(batch)))
        except EsftError as error:
            failed.append(FailedTask(task=wanted.name, error=str(error), hint=error.hint))
    if not tasks:
        first = failed[0]
        raise RunError(f"no task can be measured: {first.task}: {first.error}", hint=first.hint)
    return tuple(tasks), tuple(failed)


class Evaluator:
    """Scores tasks on steps; rows that were scored before are read from the cache."""

    def __init__(self, steps: Steps, watcher: Watcher) -> None:
        self._steps = steps
        self._watcher = watcher
        self._cache = Cache()

    def evaluation(self, step: int, task: EvalTask, batch: int | None = None) -> Evaluation:
        """Return what a step scores on a task, by its own batch size where `batch` is None.

        Steps never fall, but where all rows are known.
        """
        rollout = task.rollout if batch is None else replace(task.rollout, batches=Batches(batch))

        def rebuilt() -> Rollout:
            model = self._steps.at(step)
            self._watcher.phase(f"step {step}: {task.name}, {len(task.encoded)} rows")
            return replace(rollout, model=model)

        return evaluate(rollout, task.encoded, self._cache, self._steps.version(step), rebuilt)

    def noise_floor(self, tasks: Sequence[EvalTask]) -> NoiseFloor:
        """Score the base model again in batches of half the size; before any later step."""
        changed = {}
        for task in tasks:
            batch = task.rollout.batches.size
            half = max(1, batch // 2)
            whole, halved = self.evaluation(0, task), self.evaluation(0, task, half)
            pairs = zip(whole.results, halved.results, strict=True)
            changed[task.name] = sum(one.correct != other.correct for one, other in pairs)
        rows = sum(len(task.encoded) for task in tasks)
        text = (
            f"the base model in batches of {half} instead of {batch}: "
            f"{sum(changed.values())} of {rows} rows change between right and wrong"
        )
        return NoiseFloor(text=text, changed=changed, rows=rows)
