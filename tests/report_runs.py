"""Run folders as `esft tune` and `esft eval` leave them, for tests of the report."""

import json
import math
from dataclasses import replace

from records import MODEL, a_score, a_step, an_info

from esft.engine.forecast import Forecast, sum_of_squares
from esft.engine.journal import JournalStep
from esft.engine.members import net_coefficients, population
from esft.evals.results import EVAL_FORMAT
from esft.runs.folder import create_run
from esft.runs.records import RecordedRow, Saved
from esft.runs.steps import ProbeRecord, StepTimes, TriedSigma

NUMEL = 1000
ROWS = 40
SETTINGS = {
    "model.id": "embedded",
    "task.name": "arc",
    "search.seed": 1,
    "search.steps": 4,
    "search.population": 4,
    "search.sigma": 0.01,
    "search.alpha": 0.1,
    "anchor.awd": 0.0,
    "anchor.norm": "l2",
    "prior.tasks": ["gsm8k"],
    "run.dir": None,
}
REWARDS = (0.1, 0.2, 0.3, 0.6)
PROBE = ProbeRecord(
    members=4,
    rows=8,
    base_reward=0.3,
    chosen=0.01,
    sigmas=(
        TriedSigma(sigma=0.001, verdict="mute", why="", changes=(0.0, 0.0, 0.01, 0.0)),
        TriedSigma(sigma=0.01, verdict="works", why="", changes=(-0.1, 0.2, 0.05, math.nan)),
        TriedSigma(sigma=0.1, verdict="too large", why="", changes=(math.nan,) * 4),
    ),
)


def write_run(path, *, steps=4, rewards=REWARDS, evaluations=None, **settings):
    """Make a run folder of the tasks arc (target) and gsm8k (prior), `steps` of 4 done.

    `evaluations` has the share of rows right by step; None evaluates the base and the last step.
    Settings are named "anchor_awd" for "anchor.awd".
    """
    given = SETTINGS | {name.replace("_", ".", 1): value for name, value in settings.items()}
    state = "finished" if steps == 4 else "running"
    info = an_info(state=state, model=replace(MODEL, tuned_parameters=NUMEL), settings=given)
    header = {name.split(".")[1]: value for name, value in given.items()} | {"antithetic": False}
    run = create_run(path, "", info, header)
    journal = _write_steps(run, given, steps, rewards)
    run.update_info(saved=Saved(step=steps, weights="ab", journal=journal.checksum, files={}))
    run.record_probe(PROBE)
    shares = {0: 0.9, steps: 0.5} if evaluations is None else evaluations
    for step, share in shares.items():
        write_evaluation(run, "arc", "target", step, 1 - share)
        write_evaluation(run, "gsm8k", "prior", step, share)
    return path


def write_evaluation(run, task, role, step, share, wrong=0.0):
    """Record an evaluation with the first rows right, `share` of them, at a reward of 2 each; the
    others have that of `wrong`. Rows of the base have a question; answers are long."""
    right = [number < share * ROWS for number in range(ROWS)]
    rows = []
    for n, correct in enumerate(right):
        said = f"<i>{task}</i> step {step}: " + "long " * 80
        reward = 2.0 if correct else wrong
        row = RecordedRow(id=str(n), key=str(n), correct=correct, reward=reward, answers=(said,))
        asked = {"question": f"<b>Q</b> & {n}?", "wanted": "<u>"} if step == 0 else {}
        rows.append(replace(row, **asked))
    accuracy = sum(right) / ROWS
    figures = {
        "n": ROWS,
        "accuracy": accuracy,
        "se": 0.05,
        "reward": 2 * accuracy + wrong * (1 - accuracy),
    }
    run.record_evaluation(a_score(step, task=task, role=role, **figures), rows)


def write_eval(path, **changes):
    """Write the eval.json of a run folder: a prior task of its own, KL and drift."""
    last = (path / "journal.jsonl").read_text().splitlines()[-1]
    score = {"n": 10, "se": 0.1, "reward": 0.5, "reward_se": 0.1}
    kl = {"kl": 0.02, "se": 0.001, "tokens": 400, "prompts": 50, "far": 0.0}
    change = {"se": 0.02, "low": -0.2, "high": -0.05, "gained": 1, "lost": 3, "p": 0.6}
    change |= {"reward_change": 0.7, "reward_se": 0.1, "reward_low": 0.5, "reward_high": 0.9}
    passes = {"change": -0.125, "interval": {"low": -0.225, "high": -0.025, "level": 0.95}}
    four, whole = score | {"step": 4, "accuracy": 0.4}, {"share": 1, "low": 0.9, "high": 1.1}
    kept = {"share": 0.5, "low": 0.25, "high": 0.875}
    largest = {"percent": 20, "least": 0.015625, "share": 0.25, "norm": 1.5}
    task = {
        "name": "mmlu",
        "role": "prior",
        "evaluations": [score | {"step": step, "accuracy": 0.5 - step / 40} for step in (0, 4)],
        "comparisons": [change | {"step": 4, "change": -0.1}],
        "verdict": {
            "kind": "lost",
            "text": "down since step 2",
            "difference": -0.1,
            "interval": {"low": -0.2, "high": -0.05, "level": 0.95},
        },
        "passes": [
            {"step": 0, "rates": [{"k": 2, "rate": 0.375, "se": None}]},
            {"step": 4, "rates": [{"k": 2, "rate": 0.25, "se": 0.05, **passes}]},
        ],
        "largest": [
            {"percent": 100, "score": four, "accuracy": whole},
            {"percent": 20, "score": four | {"accuracy": 0.45}, "accuracy": kept},
            {"percent": 100, "scale": 0.25, "score": four, "accuracy": kept},
        ],
        "kl": [{"step": 4, "base_to_tuned": kl, "tuned_to_base": kl | {"kl": None}}],
    }
    layers = [{"name": f"model.layers.{n}", "norm": n + 1.0, "numel": 100} for n in range(3)]
    drift = {"step": 4, "norm": 3.0, "forecast": 3.1, "zero_share": 0.1, "unmoved_share": 0.2}
    content = {
        "format": EVAL_FORMAT,
        "model": "embedded",
        "run": str(path),
        "base": "ab",
        "journal": json.loads(last)["checksum"],
        "margin": 0.03,
        "load": None,
        "steps": [0, 4],
        "tasks": [task],
        "drift": [drift | {"layers": layers, "largest": [largest]}],
        "noise_floor": {"text": "2 of 10 answers differ", "changed": {"mmlu": 2}, "rows": 10},
        "failed": [{"task": "piqa", "error": "no rows"}],
        "samples": 2,
        "temperature": 0.5,
    }
    (path / "eval.json").write_text(json.dumps(content | changes))


def _write_steps(run, settings, steps, rewards):
    journal = run.journal()
    journal.checksum = json.loads(run.journal_path.read_text())["checksum"]
    alpha, awd, norm = (settings[key] for key in ("search.alpha", "anchor.awd", "anchor.norm"))
    forecast = Forecast(NUMEL, alpha, awd, norm)
    coefficients = (1.0, -1.0, 0.5, -0.5)
    for step in range(1, steps + 1):
        of_step = {"step": step, "rewards": rewards, "coefficients": coefficients}
        journal.append(JournalStep(**of_step, rows_at=0, rows_hash="0"))
        members = population(settings["search.seed"], step, 4)
        forecast.step(4, sum_of_squares(net_coefficients(members, list(coefficients))))
        drift = 1.01 * forecast.norms[-1]
        figures = {"reward_best": max(rewards), "correct": 0.5, "forecast": forecast.norms[-1]}
        # Another esft may not have recorded where the time of the first step went.
        times = StepTimes(engine=1.0, rollout=4.0, grading=3.0, other=0.0) if step > 1 else None
        moves = settings.get("anchor.move", "none") != "none"
        figures["anchor"] = 0.5 * drift if moves else None
        run.record_metrics(a_step(step, drift=drift, times=times, **figures))
    return journal
