"""Where a run finds its files again, also from another folder."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from esft.recipe.prior_line import OWN, PriorSpec
from esft.recipe.settings import Recipe
from esft.tasks.registry import data_folder
from esft.tasks.task import Task


def places(recipe: Recipe, task: Task) -> dict[str, object]:
    """Return what a recipe leaves to the moment: the folder it was run in, and that of the rows."""
    folder = data_folder(recipe.task.data_dir, task)
    return {
        "folder": str(Path.cwd()),
        "data_dir": None if folder is None else str(folder.absolute()),
    }


def placed(recipe: Recipe, found: dict[str, object]) -> Recipe:
    """Return a recipe whose files are looked for where they were when the run began.

    Args:
        recipe: of a run.
        found: what `places` returned then.
    """
    home = Path(str(found["folder"]))
    task = replace(
        recipe.task,
        name=_own(recipe.task.name, home),
        data_dir=found["data_dir"] or recipe.task.data_dir,
    )
    return replace(
        recipe,
        model=replace(recipe.model, id=_placed(recipe.model.id, home)),
        task=task,
        prior=replace(recipe.prior, tasks=_priors(recipe, home)),
    )


def own_files(recipe: Recipe) -> dict[str, str]:
    """Return the sha256 of each file with a task of the user's own, by its name."""
    names = [recipe.task.name, *(spec.name for spec in recipe.prior.specs)]
    files = [Path(name).expanduser() for name in names if name.endswith(OWN)]
    files += [each.with_suffix(".jsonl") for each in files if each.suffix == ".py"]
    return {
        each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files if each.is_file()
    }


def _priors(recipe: Recipe, home: Path) -> tuple[str, ...]:
    return tuple(str(_prior(spec, home)) for spec in recipe.prior.specs)


def _prior(spec: PriorSpec, home: Path) -> PriorSpec:
    folder = None if spec.data_dir is None else _placed(spec.data_dir, home)
    return replace(spec, name=_own(spec.name, home), data_dir=folder)


def _own(name: str, home: Path) -> str:
    return _placed(name, home) if name.endswith(OWN) else name


def _placed(name: str, home: Path) -> str:
    """Return the path that a name was in `home`; the name itself where it was none."""
    path = home / os.path.expanduser(name)
    return str(path) if path.exists() and name != "embedded" else name
