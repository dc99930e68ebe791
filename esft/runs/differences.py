"""What differs between runs, in plain words: what lists, reports and legends call them by."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from esft.recipe.stages import TABLE, tuned_on
from esft.tasks.words import OWN

_FIRST = ("model.id", "task.name", "anchor.awd")
_LAST = ("search.seed", "model.device", "task.batch", "prior.every", "prior.rows", "prior.tasks")
"""Named only where runs would be called alike without it."""
_NEVER = ("anchor.store", "anchor.drift_store", "task.data_dir", "model.trust_remote_code")
"""They change no result, nor do those of [run]. The norm is part of the decay."""

_COUNTED = {
    "search.steps": "steps",
    "search.population": "members",
    "task.train": "train rows",
    "task.holdout": "holdout rows",
    "task.rows_per_step": "rows a step",
}


def differences(runs: Sequence[Mapping[str, object]]) -> list[str]:
    """Return what sets each of several runs apart from the others: "awd 1.43, alpha 0.07".

    `runs` are settings, "table.key" to value. What all have in common is left out; what is equal
    in all comes to "". Two runs are called alike where no result depends on what differs.
    """
    plain = {key: None for run in runs for key in run if not key.startswith("run.")}
    between = [key for key in plain if key not in (*_FIRST, *_LAST, *_NEVER, "anchor.norm")]
    labels: list[tuple[str, ...]] = [()] * len(runs)
    for key in (*_FIRST, *between, *_LAST):
        if key in _LAST and len(set(labels)) == len(runs):
            break
        texts = _decays(runs) if key == "anchor.awd" else _texts(key, runs)
        if len(set(texts)) > 1:
            labels = [(*label, text) for label, text in zip(labels, texts, strict=True)]
    return [", ".join(filter(None, label)) for label in labels]


def short_name(name: str) -> str:
    """Return a model or a task without what leads to its file and without that file's ending."""
    path = Path(name)
    return path.stem if path.suffix in (".gguf", *OWN) else path.name


def _decays(runs: Sequence[Mapping[str, object]]) -> list[str]:
    norms = {run.get("anchor.norm") for run in runs if run.get("anchor.awd")}
    numbers = _texts("anchor.awd", runs)
    decays = []
    for number, run in zip(numbers, runs, strict=True):
        norm = f" {run.get('anchor.norm')}" if len(norms) > 1 else ""
        decays.append(number + norm if run.get("anchor.awd") else "no decay")
    return decays


def _texts(key: str, runs: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the values of a setting in words: in full only where they are the same in short."""
    values = [run.get(key) for run in runs]
    texts = [_text(key, value, short=True) for value in values]
    if len(set(texts)) < len(set(map(repr, values))):
        texts = [_text(key, value, short=False) for value in values]
    return texts


def _text(key: str, value: object, *, short: bool) -> str:
    name = key.partition(".")[2].replace("_", " ")
    if key in ("model.id", "task.name"):
        return short_name(str(value)) if short else str(value)
    if key == "prior.tasks":
        return f"{len(value or ())} prior tasks" if short else f"prior tasks {value}"
    if value is None and key == "anchor.tau":
        return ""  # the anchor does not move, which its setting says
    if value is None:
        return f"default {_COUNTED.get(key, name)}"
    if key in _COUNTED:
        return f"{value:,} {_COUNTED[key]}"
    if isinstance(value, bool):
        return name if value else f"not {name}"
    if key == TABLE:
        return tuned_on({"task.name": "", key: value})
    if isinstance(value, list):
        return f"{name} {' '.join(map(str, value)) or 'nothing'}"
    return f"{name} {value:.3g}" if short and isinstance(value, float) else f"{name} {value}"
