"""What a run records about itself: run.json and the head of the journal."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version

import torch

from esft import __version__
from esft.engine.noise import NOISE_VERSION
from esft.recipe.paths import own_files, recorded_paths
from esft.recipe.settings import settings_of
from esft.tuning.sampler import rows_hash
from esft.tuning.session import Session


def run_info(session: Session) -> dict[str, object]:
    """Return the content of run.json: what could change a result and is no setting."""
    loaded = session.loaded
    return {
        "state": "running",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "model": {
            "id": loaded.id,
            "source": loaded.source,
            "base": session.base.identity,
            "dtype": str(loaded.dtype).removeprefix("torch."),
            "tuned_parameters": session.weights.numel,
        },
        "device": _device(loaded.device),
        "threads": torch.get_num_threads(),
        "noise_version": NOISE_VERSION,
        "rows": rows_info(session),
        "files": own_files(session.recipe),
        "places": recorded_paths(session.recipe, session.task),
        "settings": settings_of(session.recipe),
        "batches": [[0, session.rollout.batches.size]],
    }


def versions() -> dict[str, str]:
    """Return the versions of what could change a result."""
    return {
        "esft": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def rows_info(session: Session) -> dict[str, dict[str, object]]:
    """Return how many rows there are of each kind, and their hash."""
    found = {"train": session.train, "holdout": session.holdout}
    found |= {f"prior task {prior.name}": prior.encoded for prior in session.priors}
    return {
        name: {"n": len(encoded.rows), "hash": rows_hash(encoded.rows)}
        for name, encoded in found.items()
    }


def journal_header(session: Session) -> dict[str, object]:
    """Return what a replay of the journal needs besides its steps and the base model."""
    recipe = session.recipe
    return {
        "noise_version": NOISE_VERSION,
        "model": session.loaded.id,
        "base": session.base.identity,
        "dtype": str(session.loaded.dtype).removeprefix("torch."),
        "include": recipe.model.include,
        "exclude": recipe.model.exclude,
        "seed": recipe.search.seed,
        "population": recipe.search.population,
        "antithetic": recipe.search.antithetic,
        "sigma": recipe.search.sigma,
        "alpha": recipe.search.alpha,
        "awd": recipe.anchor.awd,
        "norm": recipe.anchor.norm,
        "drift": recipe.anchor.drift,
    }


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()})"
