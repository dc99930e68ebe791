"""What a run records about itself: run.json and the head of the journal."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version

import torch

from esft import __version__
from esft.engine.noise import NOISE_VERSION
from esft.sampler import rows_hash
from esft.session import Session

RUN_FORMAT = 1


def run_info(session: Session) -> dict[str, object]:
    """Return the content of run.json: what could change a result and is no setting."""
    loaded = session.loaded
    return {
        "format": RUN_FORMAT,
        "state": "running",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "esft": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": version("transformers"),
        },
        "model": {
            "id": loaded.id,
            "source": loaded.source,
            "base": session.base,
            "dtype": str(loaded.dtype).removeprefix("torch."),
            "tuned_parameters": session.weights.numel,
        },
        "device": _device(loaded.device),
        "threads": torch.get_num_threads(),
        "noise_version": NOISE_VERSION,
        "rows": {
            "train": {"n": len(session.train.rows), "hash": rows_hash(session.train.rows)},
            "holdout": {"n": len(session.holdout.rows), "hash": rows_hash(session.holdout.rows)},
            "prior": {
                prior.name: {
                    "n": len(prior.prepared.rows),
                    "hash": rows_hash(prior.prepared.rows),
                }
                for prior in session.priors
            },
        },
        "batches": [[0, session.rollout.batches.size]],
    }


def journal_header(session: Session) -> dict[str, object]:
    """Return what a replay of the journal needs besides its steps and the base model."""
    recipe = session.recipe
    return {
        "noise_version": NOISE_VERSION,
        "model": session.loaded.id,
        "base": session.base,
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
