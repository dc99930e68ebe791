"""The model card of an exported model."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch

from esft import __version__
from esft.engine.journal_read import lines_until
from esft.export.exported import Exported, comparison_text
from esft.recipe.priors import parse_prior_line
from esft.runs.records import summaries
from esft.tuning.rebuild import Source

_CARD = """\
---
{base_model}library_name: transformers
pipeline_tag: text-generation
tags: [esft, evolution-strategies]
---

# {title}

Made by esft {version}: evolution strategies, {anchored}.

- base model: {base}; sha256 of its parameters `{base_weights}`
- task: {task}
- step: {step}; {best}
- drift from the base model: norm {drift:.6g} over {parameters:,} tuned parameters

## Scores

{scores}

## Settings

{settings}

## Is this the tuned model?

{comparison}

- sha256 of the tuned model's parameters: `{weights}`{recorded}
- journal up to this step: last checksum `{checksum}`, sha256 of its text `{journal}`

## Rebuild it

The journal of the run and the base model give the same bits again:

    {rebuild}

{versions}
## Licence

The licence is that of the base model.
"""

_SETTINGS = (
    "task.scoring",
    "task.reward",
    "task.train",
    "task.holdout",
    "task.rows_per_step",
    "task.max_new_tokens",
    "search.shaping",
)
"""What run.json has beside the head of the journal."""
_SEARCH = ("seed", "population", "antithetic", "sigma", "alpha")
_ANCHOR = ("awd", "norm", "drift")
_GLOBS = ("include", "exclude")


def card(source: Source, exported: Exported) -> str:
    """Return the text of README.md; it names no path of this machine."""
    tuned = exported.tuned
    base, record = tuned.base, source.record
    task = None if source.run is None else _short(str(source.run.info["settings"]["task.name"]))
    header = record.header
    hub = f"base_model: {json.dumps(base.name)}\nbase_model_relation: finetune\n"
    at = "" if base.revision is None else f" at commit `{base.revision}`"
    title = base.name.rpartition("/")[2]
    return _CARD.format(
        base_model="" if base.revision is None else hub,
        title=title if task is None else f"{title}, tuned on {task}",
        version=__version__,
        anchored="with anchored weight decay" if header["awd"] else "without a decay",
        base=f"`{base.name}`{at}",
        base_weights=tuned.base_weights,
        task="not named by the journal that this was made from" if task is None else f"`{task}`",
        step=f"{tuned.step}, the base model itself" if tuned.step == 0 else tuned.step,
        best="which is the best is not known"
        if tuned.best is None
        else f"best by reward on holdout rows: {tuned.best}",
        drift=tuned.drift,
        parameters=tuned.parameters,
        scores=_scores(source, exported),
        settings=_settings(source, tuned.step),
        comparison=_compared(exported),
        weights=tuned.weights,
        recorded=", which the run recorded too" if tuned.recorded else "",
        checksum=record.checksums[tuned.step],
        journal=hashlib.sha256(lines_until(record, tuned.step).encode()).hexdigest(),
        rebuild=f"esft replay journal.jsonl --at {tuned.step} --model {base.name} --out DIR",
        versions=_versions(source),
    )


def _compared(exported: Exported) -> str:
    return (
        f"This folder was loaded again in a new process (device: {exported.tuned.device}, CPU "
        f"threads: {torch.get_num_threads()}) and compared with the model in the memory of the "
        f"process that wrote it. {comparison_text(exported)}"
    )


def _scores(source: Source, exported: Exported) -> str:
    if source.run is None:
        return "The journal that this was made from holds no scores."
    step = exported.tuned.step
    # The last of a task and step counts, as the run itself reads them.
    found = {(each["task"], each["step"]): each for each in summaries(source.run.path)}
    tasks = {task: each["role"] for (task, _), each in found.items()}
    if not tasks:
        return "The run has no evaluation on record."
    heads = ["task", "role", "rows", "correct, base", f"correct, step {step}"]
    heads += ["reward, base", f"reward, step {step}"]
    rows = [heads, ["---"] * len(heads)]
    for task, role in tasks.items():
        base, now = found.get((task, 0)), found.get((task, step))
        count = str((now or base or {"n": "-"})["n"])
        figures = [_figure(each, *key) for key in _FIGURES for each in (base, now)]
        rows.append([f"`{_short(str(task))}`", str(role), count, *figures])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n\n".join([_SCORES, table, *_caveats(exported, {at for _, at in found})])


_SCORES = "Share of rows answered right, and mean reward, each with its standard error."
_FIGURES = (("accuracy", "se"), ("reward", "reward_se"))


def _caveats(exported: Exported, evaluated: set[int]) -> list[str]:
    step, found = exported.tuned.step, []
    if step not in evaluated:
        steps = ", ".join(map(str, sorted(evaluated)))
        found.append(f"Step {step} was not evaluated: its scores are not known (only {steps}).")
    if exported.converted:
        found.append(f"Measured in {exported.tuned.dtype}, before the conversion.")
    return found


def _figure(summary: dict | None, value: str, error: str) -> str:
    if summary is None or summary[value] is None:
        return "not measured"
    spread = "" if summary[error] is None else f" ± {summary[error]:.4f}"
    return f"{summary[value]:.4f}{spread}"


def _settings(source: Source, step: int) -> str:
    header = source.record.header
    found = {f"search.{key}": header[key] for key in _SEARCH}
    found |= {f"anchor.{key}": header[key] for key in _ANCHOR}
    found |= {f"model.{key}": header[key] for key in _GLOBS}
    lines = [f"dtype of the run: {header['dtype']}", f"noise version: {header['noise_version']}"]
    if source.run is not None:
        recorded = source.run.info["settings"]
        found |= {key: recorded.get(key) for key in _SETTINGS}
        priors = ", ".join(_short_line(line) for line in recorded["prior.tasks"])
        found["prior.tasks"] = priors or None
    lines += [f"{key}: {_plain(value)}" for key, value in found.items() if value is not None]
    return "\n".join(f"- {line}" for line in lines)


def _short(name: str) -> str:
    """Return the name of a task; of a file, without the folders that lead to it."""
    return Path(name).name


def _short_line(line: str) -> str:
    """Return the line of a prior task, without folders."""
    spec = parse_prior_line(line)
    return str(replace(spec, name=_short(spec.name), data_dir=None))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _versions(source: Source) -> str:
    if source.run is None:
        return ""
    found = ", ".join(f"{name} {version}" for name, version in source.run.info["versions"].items())
    return f"The run was made with {found} on {source.run.info['device']}.\n"
