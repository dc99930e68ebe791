"""What an evaluation is asked to measure, and which options do not go together."""

import math
from dataclasses import dataclass

from esft.errors import RecipeError
from esft.stats.verdict import MARGIN
from esft.tuning.tasks import EvalTask, sampling


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """What is to be measured."""

    run: str | None = None  # or a journal; None is the newest run, or, with a model, none
    models: tuple[str, ...] = ()
    """With a base, those to compare with it, in order; else one to measure by itself, or, with a
    run, its base model."""
    base: str | None = None
    priors: tuple[str, ...] = ()  # as `parse_prior_line` reads them; none takes those of the run
    at: str | None = None
    """Steps, separated by commas, beside the base. None takes the last, and of a task that the run
    measured on its way all those steps; drift and KL are then those of the last alone."""
    rows: int | None = None  # of a prior task that names no number; None takes the run's, else 200
    dtype: str | None = None
    device: str | None = None
    data_dir: str | None = None
    margin: float = MARGIN
    load: str | None = None  # "nf4" or "int8"; None measures the models as they are
    kl_prompts: int = 50
    kl_tokens: int = 256
    noise_floor: bool = True
    samples: int | None = None  # of each row of tasks scored by generation, for pass@k
    temperature: float | None = None  # at which they are drawn; None takes 1
    layers: bool = False  # where the change of the last step sits

    def sampling(self, task: EvalTask) -> EvalTask:
        """Return a task with the sampled answers that are asked for; see `tasks.sampling`."""
        return sampling(task, self.samples, self.drawn_at)

    @property
    def drawn_at(self) -> float | None:
        """The temperature of sampled answers; None where there are none."""
        if self.samples is None:
            return None
        return 1.0 if self.temperature is None else self.temperature

    def refuse_what_does_not_go_together(self) -> None:
        """Raise RecipeError where options contradict each other."""
        if self.temperature is not None and self.samples is None:
            raise RecipeError(
                f"--temperature is {self.temperature:g}, expected --samples with it: evaluations "
                "are greedy",
                hint="--samples 8 draws eight answers to each row, for pass@k",
            )
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise RecipeError(
                f"--temperature is {self.temperature:g}, expected a number above 0",
                hint="evaluations are greedy without --samples; 1 draws from the model as it is",
            )
        if self.layers and (self.load is not None or (self.run is None and self.models)):
            which = f"--load {self.load}" if self.load is not None else "--model without a RUN"
            raise RecipeError(
                f"--layers is given with {which}, expected a run as it is: what it tells apart "
                "are the changes that a run made",
                hint="esft eval RUN --layers",
            )
        if self.base is None and len(self.models) > 1:
            raise RecipeError(
                f"--model is given {len(self.models)} times, expected once",
                hint="--base names the model that they are compared with",
            )
        if self.base is not None and self.run is not None:
            raise RecipeError(
                f"RUN is {self.run} and --base {self.base}, expected one of them: a run is "
                "compared with its own base model",
                hint="leave --base out; or esft export RUN --out DIR, then --model DIR and no RUN",
            )
        if self.base is not None and not self.models:
            raise RecipeError(
                f"--base is {self.base}, expected a --model to compare with it",
                hint="--base BASE --model MODEL, the latter as often as there are models",
            )
