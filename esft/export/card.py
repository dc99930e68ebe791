"""The model card of an exported model."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from esft import __version__
from esft.engine.journal_read import lines_until
from esft.export.compare import NEW_TOKENS, Conversion
from esft.recipe.priors import parse_prior_line
from esft.runs.records import summaries
from esft.tuning.rebuild import Source

_CARD = Path(__file__).with_name("card_template.md")
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


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The model of a step, as it was in memory."""

    step: int
    best: int | None
    """The run's best step; None where nothing says it."""
    base: str
    """What the base model is called: its hub id, or a name without the folders that lead to it."""
    revision: str | None
    """Its commit, where it is from the hub."""
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
    prompts: int
    """How many prompts it was compared on."""
    prompts_from: str
    """Which ones, in words."""
    conversion: Conversion | None
    """What it changed to convert the weights to another dtype; None where they stay."""


def card(source: Source, exported: Exported) -> str:
    """Return the text of README.md; it names no path of this machine."""
    tuned, record = exported.tuned, source.record
    base, revision = tuned.base, tuned.revision
    task = None if source.run is None else _short(str(source.run.info["settings"]["task.name"]))
    title = base.rpartition("/")[2]
    return _CARD.read_text(encoding="utf-8").format(
        base_model=f"base_model: {json.dumps(base)}\nbase_model_relation: finetune\n"
        if revision is not None
        else "",
        title=title if task is None else f"{title}, tuned on {task}",
        version=__version__,
        anchored="with anchored weight decay" if record.header["awd"] else "without a decay",
        base=f"`{base}`" if revision is None else f"`{base}` at commit `{revision}`",
        base_weights=tuned.base_weights,
        task="not named by the journal that this was made from" if task is None else f"`{task}`",
        step=f"{tuned.step}, the base model itself" if tuned.step == 0 else tuned.step,
        best="which is the best is not known"
        if tuned.best is None
        else f"best by reward on holdout rows: {tuned.best}",
        drift=tuned.drift,
        parameters=tuned.parameters,
        scores=_scores(source, exported),
        settings=_settings(source),
        device=tuned.device,
        threads=torch.get_num_threads(),
        comparison=comparison_text(exported),
        weights=tuned.weights,
        recorded=", which the run recorded too" if tuned.recorded else "",
        checksum=record.checksums[tuned.step],
        journal=hashlib.sha256(lines_until(record, tuned.step).encode()).hexdigest(),
        rebuild=f"esft replay journal.jsonl --at {tuned.step} --model {base} --out DIR",
        versions=_versions(source),
    )


def comparison_text(exported: Exported) -> str:
    """Return in a sentence or two what the comparison found."""
    prompts = f"{exported.prompts} prompts ({exported.prompts_from})"
    found = exported.conversion
    if found is None:
        return f"All weights are equal, bit for bit, and so are the tokens of {prompts}."
    return (
        f"The weights were converted from {exported.tuned.dtype} to {exported.dtype}; the tokens "
        f"of {prompts} are equal, {found.logits:,} logits at {found.positions:,} positions of them "
        f"differ by at most {found.largest_difference:.4g}, mean KL(tuned || exported) "
        f"{found.mean_kl:.4g} nats, and {found.same_answers} of the {exported.prompts} greedy "
        f"answers of up to {NEW_TOKENS} tokens are equal."
    )


def _scores(source: Source, exported: Exported) -> str:
    if source.run is None:
        return "The journal that this was made from holds no scores."
    step = exported.tuned.step
    # The last of a task and step counts, as the run itself reads them.
    by_step = {(line["task"], line["step"]): line for line in summaries(source.run.path)}
    roles = {task: line["role"] for (task, _), line in by_step.items()}
    if not roles:
        return "The run has no evaluation on record."
    table = [
        f"| task | role | rows | correct, base | correct, step {step} | reward, base "
        f"| reward, step {step} |",
        "|---" * 7 + "|",
    ]
    for task, role in roles.items():
        base, now = by_step.get((task, 0)), by_step.get((task, step))
        cells = [f"`{_short(str(task))}`", str(role), str((now or base or {"n": "-"})["n"])]
        for value, error in (("accuracy", "se"), ("reward", "reward_se")):
            cells += [_with_error(base, value, error), _with_error(now, value, error)]
        table.append(f"| {' | '.join(cells)} |")
    parts = ["Share of rows answered right, and mean reward, each with its standard error."]
    parts.append("\n".join(table))
    evaluated = sorted({at for _, at in by_step})
    if step not in evaluated:
        parts.append(
            f"Step {step} was not evaluated: its scores are not known "
            f"(only {', '.join(map(str, evaluated))})."
        )
    if exported.conversion is not None:
        parts.append(f"Measured in {exported.tuned.dtype}, before the conversion.")
    return "\n\n".join(parts)


def _with_error(summary: dict | None, value: str, error: str) -> str:
    if summary is None or summary[value] is None:
        return "not measured"
    spread = "" if summary[error] is None else f" ± {summary[error]:.4f}"
    return f"{summary[value]:.4f}{spread}"


def _settings(source: Source) -> str:
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
