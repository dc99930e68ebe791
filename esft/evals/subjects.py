"""What is measured: prior tasks, and the target of a run."""

from dataclasses import dataclass

from esft.models.load import LoadedModel
from esft.recipe.settings import Recipe
from esft.rollout.batches import Batches
from esft.rollout.encode import EncodedRows
from esft.rollout.rollout import Rollout
from esft.tuning.prior_tasks import PriorRows, PriorTask, ready
from esft.tuning.session import task_and_rows


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A task ready to be measured on a model."""

    role: str
    """"target" or "prior"."""
    rollout: Rollout
    encoded: EncodedRows

    @property
    def name(self) -> str:
        """Of the task."""
        return self.rollout.task.name


def target_of(recipe: Recipe, loaded: LoadedModel, batches: Batches) -> Subject:
    """Return the target of a run, on its holdout rows.

    Raises:
        EsftError: if its rows cannot be had.
    """
    settings = recipe.task
    task, split = task_and_rows(settings)
    rollout = Rollout(
        loaded.model,
        loaded.tokenizer,
        task,
        scoring=settings.scoring,
        reward=settings.reward,
        max_new_tokens=settings.max_new_tokens,
        batches=batches,
    )
    return Subject(role="target", rollout=rollout, encoded=rollout.encode(split.holdout))


def prior_of(rows: PriorRows, loaded: LoadedModel, batches: Batches) -> Subject:
    """Return a prior task with its rows tokenized.

    Raises:
        EsftError: if a row does not fit the model.
    """
    prior: PriorTask = ready((rows,), loaded, batches)[0]
    return Subject(role="prior", rollout=prior.rollout, encoded=prior.encoded)
