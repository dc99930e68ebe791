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
_OF_HEADER = {
    "search": ("seed", "population", "antithetic", "sigma", "alpha"),
    "anchor": ("awd", "norm", "drift"),
    "model": ("include", "exclude"),
}
"""Settings that the head of a journal has."""
_OF_RUN = (
    "task.scoring",
    "task.reward",
    "task.train",
    "task.holdout",
    "task.rows_per_step",
    "task.max_new_tokens",
    "search.shaping",
)
"""Those that only run.json has."""


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
    base_weights: str  # identity of the base model
    weights: str  # identity of this one
    recorded: bool  # whether the run recorded that identity too
    parameters: int  # tuned ones
    drift: float  # ||D||
    dtype: str
    device: str  # where it was rebuilt and compared


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
    tuned, record, run = exported.tuned, source.record, source.run
    title, base = tuned.base.rpartition("/")[2], f"`{tuned.base}`"
    head, task, versions = "", "not named by the journal that this was made from", ""
    if tuned.revision is not None:
        head = f"base_model: {json.dumps(tuned.base)}\nbase_model_relation: finetune\n"
        base += f" at commit `{tuned.revision}`"
    if run is not None:
        name = _short(str(run.info["settings"]["task.name"]))
        title, task = f"{title}, tuned on {name}", f"`{name}`"
        made_with = ", ".join(f"{key} {value}" for key, value in run.info["versions"].items())
        versions = f"The run was made with {made_with} on {run.info['device']}.\n"
    best = "which is the best is not known"
    if tuned.best is not None:
        best = f"best by reward on holdout rows: {tuned.best}"
    return _CARD.read_text(encoding="utf-8").format(
        tuned=tuned,
        head=head,
        title=title,
        version=__version__,
        anchored="with anchored weight decay" if record.header["awd"] else "without a decay",
        base=base,
        task=task,
        itself="" if tuned.step else ", the base model itself",
        best=best,
        scores=_scores(source, exported),
        settings=_settings(source),
        threads=torch.get_num_threads(),
        comparison=comparison_text(exported),
        recorded=", which the run recorded too" if tuned.recorded else "",
        checksum=record.checksums[tuned.step],
        journal=hashlib.sha256(lines_until(record, tuned.step).encode()).hexdigest(),
        versions=versions,
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
    text = "Share of rows answered right, and mean reward, each with its standard error."
    parts = [text, "\n".join(table)]
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
    settings = {"dtype of the run": header["dtype"], "noise version": header["noise_version"]}
    for table, keys in _OF_HEADER.items():
        settings |= {f"{table}.{key}": header[key] for key in keys}
    if source.run is not None:
        recorded = source.run.info["settings"]
        settings |= {key: recorded.get(key) for key in _OF_RUN}
        priors = [parse_prior_line(line) for line in recorded["prior.tasks"]]
        short = [str(replace(spec, name=_short(spec.name), data_dir=None)) for spec in priors]
        settings["prior.tasks"] = ", ".join(short) or None
    return "\n".join(
        f"- {key}: {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in settings.items()
        if value is not None
    )


def _short(name: str) -> str:
    """Return the name of a task; of a file, without the folders that lead to it."""
    return Path(name).name
