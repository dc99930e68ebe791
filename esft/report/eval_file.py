"""The eval.json that `esft eval` left in a run folder, read back."""

import json
from pathlib import Path

from esft.errors import RunError
from esft.evals.form import EVAL_FORMAT
from esft.report.numbers import (
    Change,
    DriftNumbers,
    Judgement,
    Kl,
    KlPair,
    Layer,
    Score,
    TaskNumbers,
    number,
)


def read_eval(path: Path) -> dict | None:
    """Return the content of a run's eval.json; None where there is none.

    Raises:
        RunError: if it cannot be read, or another format of esft wrote it.
    """
    file = path / "eval.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read: {error}", hint="make it anew: esft eval") from error
    version = found.get("format") if isinstance(found, dict) else None
    if version != EVAL_FORMAT:
        raise RunError(
            f"{file} has format {version!r}, expected {EVAL_FORMAT}", hint="make it anew: esft eval"
        )
    return found


def task_of(record: dict) -> TaskNumbers:
    """Return a task as eval.json has it."""
    verdict = record.get("verdict")
    return TaskNumbers(
        name=record["name"],
        role=record["role"],
        scores=tuple(score_of(each) for each in _by_step(record["evaluations"])),
        changes=tuple(_change(each) for each in _by_step(record.get("comparisons") or [])),
        verdict=None if verdict is None else _judgement(verdict),
        kl=tuple(_kl_pair(each) for each in _by_step(record.get("kl") or [])),
    )


def score_of(record: dict) -> Score:
    """Return an evaluation as eval.json and evals.jsonl have it."""
    return Score(
        step=record["step"],
        n=record["n"],
        accuracy=number(record["accuracy"]),
        se=number(record["se"]),
        reward=number(record["reward"]),
        reward_se=number(record["reward_se"]),
    )


def drift_of(record: dict) -> DriftNumbers:
    """Return the drift at a step as eval.json has it."""
    layers = [
        Layer(name=each["name"], norm=number(each["norm"]), numel=each["numel"])
        for each in record.get("layers") or []
    ]
    return DriftNumbers(
        step=record["step"],
        norm=number(record["norm"]),
        forecast=number(record.get("forecast")),
        zero_share=number(record.get("zero_share")),
        unmoved_share=number(record.get("unmoved_share")),
        layers=tuple(layers),
    )


def _change(record: dict) -> Change:
    return Change(
        step=record["step"],
        change=number(record["change"]),
        se=number(record["se"]),
        low=number(record["low"]),
        high=number(record["high"]),
        gained=record["gained"],
        lost=record["lost"],
        p=number(record["p"]),
        reward_change=number(record.get("reward_change")),
        reward_se=number(record.get("reward_se")),
        reward_low=number(record.get("reward_low")),
        reward_high=number(record.get("reward_high")),
    )


def _judgement(record: dict) -> Judgement:
    return Judgement(
        kind=record["kind"],
        text=record["text"],
        difference=number(record.get("difference")),
        low=number(record.get("low")),
        high=number(record.get("high")),
        rows_needed=record.get("rows_needed"),
        evaluations_needed=record.get("evaluations_needed"),
    )


def _kl_pair(record: dict) -> KlPair:
    return KlPair(
        step=record["step"],
        base_to_tuned=_kl(record.get("base_to_tuned")),
        tuned_to_base=_kl(record.get("tuned_to_base")),
    )


def _kl(record: dict | None) -> Kl | None:
    if record is None:
        return None
    return Kl(
        kl=number(record["kl"]),
        se=number(record["se"]),
        tokens=record.get("tokens"),
        prompts=record.get("prompts"),
    )


def _by_step(records: list[dict]) -> list[dict]:
    return sorted(records, key=lambda each: each["step"])
