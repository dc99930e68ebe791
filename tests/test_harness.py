"""Option scores are those of lm-evaluation-harness, on the real small model and real rows.

Its scores were recorded by tests/harness/compare.py.
"""

import json
import os
from itertools import islice
from pathlib import Path

import pytest

from esft.models import load_model
from esft.rollout import Rollout
from esft.tasks import get_task

MODEL, DATA = os.environ.get("ESFT_TEST_MODEL"), os.environ.get("ESFT_DATA_DIR")
RECORDED = json.loads((Path(__file__).parent / "harness" / "scores.json").read_text())
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        MODEL is None or DATA is None, reason="ESFT_TEST_MODEL or ESFT_DATA_DIR is not set"
    ),
]


@pytest.fixture(scope="module")
def loaded():
    return load_model(MODEL, dtype="float32", device="cpu")


@pytest.mark.parametrize("name", RECORDED["files"])
def test_log_probabilities_of_all_options_agree(name, loaded):
    task, expected = get_task(name), RECORDED["logprobs"][name]
    with (Path(DATA) / f"{RECORDED['files'][name]}.jsonl").open(encoding="utf-8") as lines:
        rows = tuple(task.read(json.loads(line)) for line in islice(lines, len(expected)))
    rollout = Rollout(loaded.model, loaded.tokenizer, task)

    found = rollout.option_logprobs(rollout.prepare(rows))

    assert len(rows) >= 8
    # Two ways to batch in float32, sums of up to 60 tokens: 5e-5 apart was seen on 100 rows.
    assert [value for each in found for value in each] == pytest.approx(
        [value for each in expected for value in each], abs=1e-3
    )
