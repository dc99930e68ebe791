"""eval.json: what is written comes back, and what esft did not write is refused in a sentence."""

import json
import math
from dataclasses import replace

import pytest

from esft.engine.measures import LayerDrift
from esft.errors import RunError
from esft.evals.results import (
    EvalRecord,
    FailedTask,
    KlPair,
    NoiseFloor,
    StepDrift,
    TaskResult,
    compared,
    read_eval,
)
from esft.rollout.kl import KlEstimate
from esft.rollout.typed import json_text, to_json
from esft.runs.records import StepScore

ROWS = {0: [(1, 1.5), (1, 1.0), (0, 0.5)], 4: [(0, 0.0), (1, 1.0), (1, 0.25)]}
KL = KlEstimate(kl=0.02, se=0.001, tokens=400, prompts=50, far=0.0)
SCORE = StepScore(step=0, n=3, accuracy=2 / 3, se=0.3, reward=1.0, reward_se=None, acc=1.0)
TASK = compared(
    TaskResult(
        name="arc",
        role="prior",
        evaluations=(SCORE, replace(SCORE, step=4, grader_failures=1)),
        kl=(KlPair(step=4, base_to_tuned=KL, tuned_to_base=KL),),
        scoring="choice",
        hash="x",
    ),
    ROWS,
    ["a", "b", "c"],
)
LAYER = LayerDrift(name="model.layers.0", norm=3.0, numel=9)
DRIFT = StepDrift(
    step=4, norm=3.0, forecast=3.1, zero_share=0.1, unmoved_share=0.2, layers=(LAYER,)
)
RECORD = EvalRecord(
    model="embedded",
    run="runs/arc",
    base="ab",
    journal="cd",
    margin=0.03,
    load=None,
    steps=(0, 4),
    tasks=(TASK,),
    drift=(DRIFT,),
    noise_floor=NoiseFloor(text="2 of 3 rows", changed={"arc": 2}, rows=3),
    failed=(FailedTask(task="piqa", error="no rows"),),
)


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_what_is_written_comes_back(tmp_path):
    assert read_eval(write(tmp_path / "eval.json", to_json(RECORD))) == RECORD
    assert read_eval(tmp_path / "none.json") is None
    (change,) = RECORD.tasks[0].comparisons
    assert (change.gained_rows, change.lost_rows) == (("c",), ("a",))
    assert change.reward_change == pytest.approx(-1.75 / 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null_and_comes_back_as_nan(tmp_path, value):
    pair = KlPair(step=4, base_to_tuned=replace(KL, kl=value), tuned_to_base=KL)
    content = to_json(replace(RECORD, tasks=(replace(TASK, kl=(pair,)),)))

    found = read_eval(write(tmp_path / "eval.json", content))

    assert content["tasks"][0]["kl"][0]["base_to_tuned"]["kl"] is None
    assert math.isnan(found.tasks[0].kl[0].base_to_tuned.kl)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format": 1}, "has format 1, expected 2"),
        ({"steps": "all"}, "steps is 'all', expected a list"),
        ({"tasks": [{"name": "arc", "role": "prior"}]}, "tasks.0..evaluations is missing"),
        (
            {"tasks": [{"name": "a", "role": "both", "evaluations": []}]},
            "tasks.0..role is 'both', expected target or prior",
        ),
        ({"failed": [{"task": 3, "error": "none"}]}, "failed.0..task is 3, expected a text"),
    ],
)
def test_what_esft_did_not_write_is_refused_in_a_sentence(tmp_path, change, error):
    with pytest.raises(RunError, match=error) as caught:
        read_eval(write(tmp_path / "eval.json", to_json(RECORD) | change))

    assert caught.value.hint == "make it anew: esft eval"


def test_what_is_printed_or_written_is_json_for_every_reader():
    text = json_text({"drift": math.inf, "task": TASK, "shares": (math.nan, -math.inf, 0.5)})

    read = json.loads(text, parse_constant=pytest.fail)
    assert (read["drift"], read["shares"]) == (None, [None, None, 0.5])
    assert read["task"]["name"] == TASK.name
