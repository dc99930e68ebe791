"""A real step by its parts."""

import math
import time
from types import SimpleNamespace

import pytest
import torch
from tiny_models import write_model

from esft.bench.step import StepSettings, _Steps, bench_step


def test_a_step_of_quickstart_is_timed_by_its_parts():
    measured = bench_step(StepSettings(device="cpu", members=4, rounds=2))

    assert (measured.task, measured.members, measured.rows) == ("subtract-two-digits", 4, 96)
    assert set(measured.parts) == {"engine", "rollout", "grading", "other"}
    low = math.fsum(part.low for part in measured.parts.values())
    high = math.fsum(part.high for part in measured.parts.values())
    assert low <= measured.seconds.low <= measured.seconds.high <= high
    assert measured.parts["rollout"].median > measured.parts["other"].median
    assert math.fsum(measured.shares.values()) == pytest.approx(1, abs=0.2)
    assert measured.inference_share > 0


def test_plain_inference_is_as_many_rollouts_as_there_are_members():
    steps, seen = _Steps(), []

    def roll_out(rows):
        seen.append(rows)
        time.sleep(0.02)

    search = SimpleNamespace(population=10)
    steps.session = SimpleNamespace(
        rollout=SimpleNamespace(roll_out=roll_out),
        train=("a", "b"),
        recipe=SimpleNamespace(search=search),
        base=SimpleNamespace(loaded=SimpleNamespace(device=torch.device("cpu"))),
    )

    steps.step("metrics", None)

    assert seen == [("a", "b")] * 3
    assert steps.plain[0] >= 10 * 0.02
    assert steps.made == ["metrics"]


def test_another_model_answers_questions(tmp_path):
    model = write_model(tmp_path / "base")

    measured = bench_step(StepSettings(model=str(model), device="cpu", members=2, rounds=1))

    assert (measured.task, measured.scoring) == ("conciseness", "generate")
    assert (measured.members, measured.rows, measured.max_new_tokens) == (2, 32, 64)
