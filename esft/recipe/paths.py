"""Where a run finds its files again, also from another folder."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from esft.recipe.priors import OWN
from esft.recipe.settings import Recipe
from esft.tasks.registry import data_folder
from esft.tasks.task import Task


def recorded_paths(recipe: Recipe, task: Task) -> dict[str, object]:
    """Return what a recipe leaves to the moment: the folder it was run in, and that of the rows."""
    folder = data_folder(recipe.task.data_dir, task)
    return {
        "folder": str(Path.cwd()),
        "data_dir": None if folder is None else str(folder.absolute()),
    }


def with_recorded_paths(recipe: Recipe, recorded: dict[str, object]) -> Recipe:
    """Return the recipe of a run whose files are looked for where `recorded_paths` found them."""

    def path(name: str) -> str:
        there = Path(str(recorded["folder"])) / os.path.expanduser(name)
        return str(there) if there.exists() and name != "embedded" else name

    task = recipe.task.with_paths(path)
    priors = tuple(str(spec.with_paths(path)) for spec in recipe.prior.specs)
    return replace(
        recipe,
        model=replace(recipe.model, id=path(recipe.model.id)),
        task=replace(task, data_dir=recorded["data_dir"] or task.data_dir),
        prior=replace(recipe.prior, tasks=priors),
    )


def own_files(recipe: Recipe) -> dict[str, str]:
    """Return the sha256 of each file with a task of the user's own, by its name."""
    names = [recipe.task.name, *(spec.name for spec in recipe.prior.specs)]
    files = [Path(name).expanduser() for name in names if name.endswith(OWN)]
    files += [file.with_suffix(".jsonl") for file in files if file.suffix == ".py"]
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()
    }
