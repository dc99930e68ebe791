"""What a run records about itself, and whether a run that goes on is still the same one."""

import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

import esft
from esft import __version__
from esft.engine.journal_read import JournalRecord
from esft.engine.noise import (
    CODES_VERSION,
    LOW_RANK_CODES_VERSION,
    LOW_RANK_VERSION,
    NOISE_VERSION,
)
from esft.models.device import FLOAT
from esft.recipe.check import shown
from esft.recipe.settings import Recipe, settings_of
from esft.recipe.stages import TABLE
from esft.runs.records import ModelInfo, Places, RowsInfo, RunInfo
from esft.tasks.own import file_hashes
from esft.tasks.registry import data_folder
from esft.tuning.base import Base
from esft.tuning.session import Session
from esft.tuning.tasks import rows_hash

# They change no bit of a run; what model and rows hold is compared by hash.
_FREE = ("anchor.store", "anchor.drift_store", "model.id", "model.trust_remote_code")
_FREE += ("run.dir", "run.snapshot_every", "run.keep_model", "run.show_answers")
_FREE += ("run.keep_answers", "run.track", "task.data_dir")
_PATHS = ("task.name", "task.source", "task.data_dir", "anchor.kl_tasks")  # that a stage can name
# A replay needs them, in the order of the journal's header.
_REPLAYED = (
    *("model.include", "model.exclude"),
    *("search.seed", "search.population", "search.antithetic", "search.sigma", "search.alpha"),
    *("anchor.awd", "anchor.norm", "anchor.drift"),
)


def run_info(sessions: Sequence[Session]) -> RunInfo:
    """Return the content of run.json: what could change a result and is no setting."""
    session = sessions[-1]
    loaded = session.base.loaded
    rows_folder = data_folder(session.recipe.task.data_dir, session.rollout.task)
    if session.whole.stages:  # which have folders of their own
        rows_folder = None
    return RunInfo(
        state="running",
        journal="",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        model=ModelInfo(
            id=loaded.id,
            source=loaded.source,
            base=session.base.identity,
            parts=dict(loaded.parts),
            dtype=str(loaded.dtype).removeprefix("torch."),
            tuned_parameters=session.base.weights.numel,
        ),
        device=device_of(session),
        threads=torch.get_num_threads(),
        noise_version=_noise(session)["noise_version"],
        rows=_rows_info(sessions),
        files=own_files(session.whole),
        places=Places(
            folder=str(Path.cwd()),
            data_dir=None if rows_folder is None else str(rows_folder.absolute()),
        ),
        settings=recorded_settings(session.whole, session.base),
        batches=((0, session.rollout.batches.size),),
    )


def recorded_settings(recipe: Recipe, base: Base) -> dict[str, object]:
    """Return every setting of a run, with the places that were chosen in it."""
    chosen = {key: getattr(base.anchor, key) for key in ("store", "drift_store")}
    return settings_of(replace(recipe, anchor=replace(recipe.anchor, **chosen)))


def versions() -> dict[str, str]:
    """Return the versions of what could change a result."""
    return {
        "esft": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def software() -> dict[str, str]:
    """Return the versions, and a hash of esft's own source."""
    root, digest = Path(esft.__file__).parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"\0{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return versions() | {"source of esft": _text(digest.hexdigest())}


def device_of(session: Session) -> str:
    """Return the device that the weights are on, with what it is."""
    device, machine = session.base.loaded.device, platform.machine()
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    return f"{device} ({machine})"


def journal_header(session: Session) -> dict[str, object]:
    """Return what a replay of the journal needs besides its steps and the base model."""
    loaded, settings = session.base.loaded, settings_of(session.whole)
    anchor = session.whole.anchor
    stages = [stage.steps for stage in session.whole.stages]
    limits = {key: settings[f"anchor.{key}"] for key in ("max_kl", "max_drift")}
    budget = {key: limit for key, limit in limits.items() if limit is not None}
    return {
        **_noise(session),
        "model": loaded.lasting_id,
        "base": session.base.identity,
        "parts": dict(loaded.parts),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        **({} if settings["model.weights"] == FLOAT else {"weights": settings["model.weights"]}),
        **{key.partition(".")[2]: settings[key] for key in _REPLAYED},
        **({"anneal": settings["search.anneal"]} if settings["search.anneal"] else {}),
        **({"stages": stages} if stages else {}),
        **({"tau": anchor.follows} if anchor.moves else {}),
        **({"budget": budget} if budget else {}),
    }


def _noise(session: Session) -> dict[str, object]:
    rank, law, coded = session.recipe.search.low_rank, session.base.law, session.base.weights.coded
    if law.whole_steps:
        return {"noise_version": CODES_VERSION, "at_bounds": law.at_bounds}
    if rank is None:
        return {"noise_version": NOISE_VERSION}
    if not coded:
        return {"noise_version": LOW_RANK_VERSION, "rank": rank}
    units = [list(kind) for kind in law.units]  # as JSON gives them back
    return {"noise_version": LOW_RANK_CODES_VERSION, "rank": rank, "units": units}


def changed_settings(recipe: Recipe, info: RunInfo) -> list[str]:
    """Return, in words, which settings cannot be those of the run of this run.json."""
    was, now = info.settings, settings_of(recipe)
    more = now["search.steps"] >= was["search.steps"] and was["search.anneal"] is None
    now, was = ({TABLE: None} | settings for settings in (now, was))
    free = _FREE + ("search.steps",) * more
    return [
        f"{key} is {shown(now[key])}, the run has {shown(was[key])}"
        for key in now
        if key not in free and was[key] != now[key]
    ]


def changed_files(sessions: Sequence[Session], info: RunInfo, record: JournalRecord) -> list[str]:
    """Return, in words, what else differs: base model, rows, files of own tasks, the journal."""
    was = _compared(record.header, info.rows, info.files)
    whole = sessions[-1].whole
    now = _compared(journal_header(sessions[-1]), _rows_info(sessions), own_files(whole))
    return [
        f"{key} is {_text(now.get(key))}, the run has {_text(was.get(key))}"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key)
    ]


def facts_of(sessions: Sequence[Session]) -> dict[str, str]:
    """Return, in words, what must be the same wherever a run is worked on at once."""
    session = sessions[-1]
    facts = _compared(journal_header(session), _rows_info(sessions), own_files(session.whole))
    facts["kind of device"] = session.base.loaded.device.type
    return {key: _text(fact) for key, fact in facts.items()}


def _compared(header: dict, rows: dict, files: dict) -> dict[str, object]:
    """Return what must stay, by what it is called; the base model may have another name by now."""
    of_base = ("base", "parts", "model")
    compared = {key: value for key, value in header.items() if key not in of_base}
    compared |= {"base model": header["base"]}
    compared |= {f"{part} of the base model": digest for part, digest in header["parts"].items()}
    compared |= {f"rows {name}": counted for name, counted in rows.items()}
    return compared | {f"file {name}": digest for name, digest in files.items()}


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, RowsInfo):
        return f"{value.n} rows of hash {value.hash}"
    if isinstance(value, str) and len(value) == 64:
        return f"sha256 {value[:16]}..."
    return shown(value)


def _rows_info(sessions: Sequence[Session]) -> dict[str, RowsInfo]:
    """Return how many rows there are of each kind, and their hash."""
    target, *priors = sessions[-1].tasks
    kinds = {"train": sessions[-1].train, "holdout": target.encoded}
    kinds |= {f"train, stage {one.stage + 1}": one.train for one in sessions[:-1]}
    kinds |= {f"prior task {prior.name}": prior.encoded for prior in priors}
    infos = {
        name: RowsInfo(n=len(rows), hash=rows_hash(one.row for one in rows))
        for name, rows in kinds.items()
    }
    for one in sessions:
        if (prompts := one.prompts) is not None:
            of_stage = "" if one.last else f", stage {one.stage + 1}"
            infos[f"anchor prompts{of_stage}"] = RowsInfo(n=prompts.count, hash=prompts.hash)
    return infos


def own_files(recipe: Recipe) -> dict[str, str]:
    """Return the sha256 of each file with a task of the user's own, by its name."""
    asked = (*recipe.targets, *recipe.prior.specs)
    names = [name for one in asked for name in (one.name, one.source) if name is not None]
    return file_hashes(*names)


def with_recorded_paths(recipe: Recipe, folder: str, data_dir: str | None) -> Recipe:
    """Return the recipe of a run whose files are looked for in the folders that run.json names."""

    def path(name: str) -> str:
        there = str(Path(folder, os.path.expanduser(name)))
        return there if os.path.exists(there) and name != "embedded" else name

    stages = []
    for number, stage in enumerate(recipe.stages):
        there = settings_of(with_recorded_paths(recipe.at_stage(number), folder, None))
        moved = {key: there[key] for key in stage.changes if key in _PATHS}
        stages.append(replace(stage, changes={**stage.changes, **moved}))
    task = recipe.task.with_paths(path)
    priors = tuple(str(spec.with_paths(path)) for spec in recipe.prior.specs)
    sources = tuple(
        path(str(source)) if isinstance(source, Path) else str(source.with_paths(path))
        for source in recipe.anchor.kl_sources
    )
    return replace(
        recipe,
        model=replace(recipe.model, id=path(recipe.model.id)),
        task=replace(task, data_dir=data_dir or task.data_dir),
        anchor=replace(recipe.anchor, kl_tasks=sources or None),
        prior=replace(recipe.prior, tasks=priors),
        stages=tuple(stages),
    )
