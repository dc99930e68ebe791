"""Where a run finds its files again, also from another folder."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from esft.recipe import Recipe
from esft.tasks import data_folder
from esft.tasks.task import Task

_OWN = (".jsonl", ".py")


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
        prior=replace(recipe.prior, tasks=tuple(_own(name, home) for name in recipe.prior.tasks)),
    )


def own_files(recipe: Recipe) -> dict[str, str]:
    """Return the sha256 of each file with a task of the user's own, by its name."""
    names = [name for name in (recipe.task.name, *recipe.prior.tasks) if name.endswith(_OWN)]
    files = [Path(name).expanduser() for name in names]
    files += [each.with_suffix(".jsonl") for each in files if each.suffix == ".py"]
    return {
        each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files if each.is_file()
    }


def _own(name: str, home: Path) -> str:
    return _placed(name, home) if name.endswith(_OWN) else name


def _placed(name: str, home: Path) -> str:
    """Return the path that a name was in `home`; the name itself where it was none."""
    path = home / os.path.expanduser(name)
    return str(path) if path.exists() and name != "embedded" else name
