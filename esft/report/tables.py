"""The tables of a report, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from esft.evals.results import Comparison, StepScore, TaskResult, known
from esft.report.cells import UNKNOWN, plain, table, with_error
from esft.report.numbers import RunNumbers

VERDICTS = {
    "unchanged": "= unchanged",
    "improved": "▲ improved",
    "drifting": "↘ drifting",
    "recovered": "↺ recovered",
    "lost": "▼ lost",
    "not enough": "? not enough to tell",
    "unknown": "? not enough to tell",
}
"""A verdict with a sign, so that colour is not all that tells it."""


def verdict_table(runs: Sequence[RunNumbers]) -> str:
    """Return what became of each task, one by one: the targets first, a row a run."""
    tasks = dict.fromkeys((task.role, task.name) for run in runs for task in run.tasks)
    rows = [
        _verdict_row(runs, place, task)
        for key in sorted(tasks, key=lambda key: key[0] != "target")
        for place, run in enumerate(runs)
        for task in run.tasks
        if (task.role, task.name) == key
    ]
    heads = ["Task", *_run_head(runs), "Rows", "Before", "After", "Change (95 % interval)"]
    heads += ["Gained / lost", "p", "Verdict"]
    return table("Every task before and after", heads, rows, "cards") if rows else ""


def runs_table(runs: Sequence[RunNumbers]) -> str:
    """Return what the runs are, and how far they came."""
    heads = ["Run", "Model", "State", "Steps", "Drift", "Forecast", "Forecast without decay"]
    heads += ["Left of it", "Decay"]
    rows = []
    for place, run in enumerate(runs):
        last = run.progress[-1] if run.progress else None
        shown = [None] * 4 if last is None else [last.drift, last.forecast, last.free, last.left]
        rows.append(
            [
                run_name(runs, place),
                escape(run.model),
                escape(run.state),
                f"{run.steps} of {UNKNOWN if run.planned is None else run.planned}",
                *(plain(value, ".4g") for value in shown[:3]),
                plain(shown[3], ".1%"),
                UNKNOWN if run.decay is None else escape(run.decay.text),
            ]
        )
    return table("How far they came, and what the decay did", heads, rows, "cards")


def settings_table(runs: Sequence[RunNumbers]) -> str:
    """Return the settings: all of a single run, of several those in which they differ."""
    found = [_settings(run) for run in runs]
    names = dict.fromkeys(name for settings in found for name in settings)
    rows = []
    for name in names:
        values = [_setting(settings.get(name)) for settings in found]
        if len(runs) == 1 or len(set(values)) > 1:
            rows.append([f"<code>{escape(name)}</code>", *values])
    if not rows:
        return "<p>The runs have the same settings.</p>"
    heads = ["Setting", *(run_name(runs, place) for place in range(len(runs)))]
    caption = "Settings" if len(runs) == 1 else "Settings in which the runs differ"
    return table(caption, heads, rows)


def scores_table(runs: Sequence[RunNumbers]) -> str:
    """Return every evaluation there is, with its standard error."""
    rows = [
        [
            escape(task.name),
            *_run_cell(runs, place),
            str(score.step),
            str(score.n),
            with_error(score.accuracy, score.se),
            with_error(score.reward, score.reward_se),
        ]
        for place, run in enumerate(runs)
        for task in run.tasks
        for score in task.evaluations
    ]
    heads = ["Task", *_run_head(runs), "Step", "Rows", "Accuracy ± SE", "Reward ± SE"]
    return table("Every evaluation", heads, rows) if rows else ""


def kl_table(runs: Sequence[RunNumbers]) -> str:
    """Return every estimate of KL, with its standard error."""
    rows = []
    for place, run in enumerate(runs):
        for task in run.tasks:
            for pair in task.kl:
                both = (pair.base_to_tuned, pair.tuned_to_base)
                cells = [with_error(known(kl.kl), known(kl.se), ".4g") for kl in both]
                row = [escape(task.name), *_run_cell(runs, place), str(pair.step), *cells]
                rows.append(row)
    heads = ["Task", *_run_head(runs), "Step", "KL(base || tuned)", "KL(tuned || base)"]
    return table("KL divergence, nats a token ± SE", heads, rows) if rows else ""


def drift_table(runs: Sequence[RunNumbers]) -> str:
    """Return the drift as `esft eval` measured it."""
    rows = [
        [
            *_run_cell(runs, place),
            str(each.step),
            plain(each.norm, ".4g"),
            plain(each.forecast, ".4g"),
            plain(each.zero_share, ".2%"),
            plain(each.unmoved_share, ".2%"),
        ]
        for place, run in enumerate(runs)
        for each in run.drift
    ]
    heads = [*_run_head(runs), "Step", "||D||", "Forecast", "Elements with D = 0"]
    heads += ["Weights as in the base, bit for bit"]
    return table("Drift measured", heads, rows, "cards") if rows else ""


def run_name(runs: Sequence[RunNumbers], place: int) -> str:
    """Return a run's name beside its colour, where there are several."""
    name = escape(runs[place].name)
    return name if len(runs) == 1 else f'<span class="run run-{place % 6}">{name}</span>'


def _verdict_row(runs: Sequence[RunNumbers], place: int, task: TaskResult) -> list[str]:
    before, after = task.before, task.after
    rows = next((score.n for score in (after, before) if score is not None), None)
    name = escape(task.name) + (" <small>target</small>" if task.role == "target" else "")
    rewarded = task.change is not None and task.change.reward_change is not None
    return [
        name,
        *_run_cell(runs, place),
        UNKNOWN if rows is None else str(rows),
        _accuracy(before, rewarded),
        _accuracy(after, rewarded),
        *_change_cells(task.change),
        _verdict(task),
    ]


def _accuracy(score: StepScore | None, rewarded: bool) -> str:
    if score is None:
        return UNKNOWN
    shown = with_error(score.accuracy, score.se)
    if score.step != 0:
        shown += f" <small>step {score.step}</small>"
    if rewarded:
        shown += f" <small>reward {with_error(score.reward, score.reward_se)}</small>"
    return shown


def _change_cells(change: Comparison | None) -> list[str]:
    if change is None:
        return [UNKNOWN] * 3
    shown = plain(change.change, "+.3f")
    shown += _range(change.low, change.high)
    if change.reward_change is not None:
        shown += f" <small>reward {plain(change.reward_change, '+.3f')}</small>"
        shown += _range(change.reward_low, change.reward_high)
    moved = f'<span class="whole">+{change.gained} / −{change.lost}</span>'
    return [shown, moved, _p_value(change.p)]


def _range(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return f" <small>({plain(low, '+.3f')} to {plain(high, '+.3f')})</small>"


def _p_value(p: float | None) -> str:
    tiny = p is not None and p < 1e-4
    return '<span class="whole">&lt; 0.0001</span>' if tiny else plain(p, ".2g")


def _verdict(task: TaskResult) -> str:
    found = task.verdict
    if found is None:
        return UNKNOWN
    kind = found.kind.replace(" ", "-")
    word = escape(VERDICTS.get(found.kind, found.kind))
    sign = f'<strong class="verdict {escape(kind)}">{word}</strong>'
    return f"{sign} <small>{escape(found.text)}</small>"


def _run_head(runs: Sequence[RunNumbers]) -> list[str]:
    return ["Run"] if len(runs) > 1 else []


def _run_cell(runs: Sequence[RunNumbers], place: int) -> list[str]:
    return [run_name(runs, place)] if len(runs) > 1 else []


def _settings(run: RunNumbers) -> dict[str, object]:
    found = {name: value for name, value in run.settings.items() if name != "run.dir"}
    return {"base": run.base, "dtype": run.dtype, "device": run.device} | found


def _setting(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, list):
        return escape(", ".join(map(str, value))) or "none"
    return escape(f"{value:g}" if isinstance(value, float) else str(value))
