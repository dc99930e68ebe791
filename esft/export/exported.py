"""What an exported model is: which step of which run, and how it compares."""

import re
from dataclasses import dataclass
from pathlib import Path

from esft.export.check import Comparison
from esft.export.figures import NEW_TOKENS
from esft.models.load import LoadedModel
from esft.tuning.rebuild import Source


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """What a base model is called where others read it."""

    name: str
    """Hub id, or the name of a folder or file without what leads to it."""
    revision: str | None
    """The commit, where it is from the hub; None where it is not."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The model of a step, as it was in memory."""

    step: int
    best: int | None
    """The run's best step; None where nothing says it."""
    base: BaseModel
    base_weights: str
    """Identity of the base model."""
    weights: str
    """Identity of this one."""
    recorded: bool
    """Whether the run recorded that identity too."""
    parameters: int
    """Tuned ones."""
    drift: float
    """||D||."""
    dtype: str
    device: str
    """Where it was rebuilt and compared."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The model of a step, as it is in a folder."""

    tuned: Tuned
    dtype: str
    weights: str
    """Identity; another than that of the tuned model where the dtype is another."""
    prompts: str
    """Which ones they were compared on, in words."""
    comparison: Comparison

    @property
    def converted(self) -> bool:
        """Whether the weights were rounded to another dtype."""
        return self.dtype != self.tuned.dtype


def base_of(source: Source, loaded: LoadedModel) -> BaseModel:
    """Return what the base model of a run, or for a journal alone the one loaded, is called."""
    info = None if source.run is None else source.run.info["model"]
    where = loaded.source if info is None else str(info["source"])
    # A path is absolute there, so that it does not look like a hub id.
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)@(\w+)", where)
    if found:
        return BaseModel(name=found[1], revision=found[2])
    id = loaded.id if info is None else str(info["id"])
    return BaseModel(name=Path(id).expanduser().resolve().name, revision=None)


def comparison_text(exported: Exported) -> str:
    """Return in a sentence or two what the comparison found."""
    found = exported.comparison
    many = (
        f"on {found.prompts} prompts ({exported.prompts}), {found.logits:,} logits at "
        f"{found.positions:,} positions"
    )
    answers = f"greedy answers of up to {NEW_TOKENS} tokens"
    if not exported.converted:
        return (
            f"All weights are equal, bit for bit; so are, {many}, and the {found.prompts} "
            f"{answers}."
        )
    return (
        f"The weights were converted from {exported.tuned.dtype} to {exported.dtype}; {many}, "
        f"differ by at most {found.largest_difference:.4g}, mean KL(tuned || exported) "
        f"{found.mean_kl:.4g} nats, and {found.same_answers} of the {found.prompts} {answers} "
        "are equal."
    )
