import pytest

from esft.runs.differences import differences

BASE = {"model.id": "embedded", "task.name": "arc", "anchor.awd": 0.01, "anchor.norm": "l1"}
BASE |= {"anchor.move": "none", "anchor.tau": None}
BASE |= {"search.alpha": 0.07, "search.steps": 500, "search.seed": 1, "task.rows_per_step": None}


def told(*changes):
    """What is said of runs that differ from the first in these settings."""
    return differences([BASE, *(BASE | change for change in changes)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"anchor.awd": 0.0}, ["awd 0.01", "no decay"]),
        ({"anchor.awd": 10.0, "anchor.norm": "l2"}, ["awd 0.01 l1", "awd 10 l2"]),
        ({"search.alpha": 0.028}, ["alpha 0.07", "alpha 0.028"]),
        ({"search.alpha": 0.07001}, ["alpha 0.07", "alpha 0.07001"]),
        ({"search.steps": 1000}, ["500 steps", "1,000 steps"]),
        ({"search.seed": 2}, ["seed 1", "seed 2"]),
        ({"task.rows_per_step": 50}, ["default rows a step", "50 rows a step"]),
        ({"search.antithetic": True}, ["default antithetic", "antithetic"]),
        ({"model.id": "models/SmolLM2-135M.gguf"}, ["embedded", "SmolLM2-135M"]),
        ({"task.name": "rows/my.jsonl"}, ["arc", "my"]),
        ({"task.name": "rows/my.csv"}, ["arc", "my"]),
        ({"task.name": "rows/arc.jsonl"}, ["arc", "rows/arc.jsonl"]),
        ({"prior.tasks": ["gsm8k", "mmlu"]}, ["0 prior tasks", "2 prior tasks"]),
        ({"anchor.move": "ema", "anchor.tau": 0.1}, ["move none", "move ema, tau 0.1"]),
        ({"model.include": ["*.mlp.*"]}, ["default include", "include *.mlp.*"]),
    ],
)
def test_what_differs_is_said_in_plain_words(change, words):
    assert told(change) == words


def test_a_seed_is_named_only_where_nothing_else_tells_runs_apart():
    without = {"anchor.awd": 0.0}

    assert told(without | {"search.seed": 2}) == ["awd 0.01", "no decay"]
    assert told(without, without | {"search.seed": 2}) == [
        "awd 0.01, seed 1",
        "no decay, seed 1",
        "no decay, seed 2",
    ]


@pytest.mark.parametrize(
    "change",
    [{}, {"run.dir": "other"}, {"anchor.store": "disk"}, {"task.data_dir": "rows"}],
)
def test_what_changes_no_result_is_not_named(change):
    assert told(change) == ["", ""]


def test_the_norm_of_a_run_without_decay_is_no_difference():
    assert told({"anchor.awd": 0.0, "anchor.norm": "l2"}) == ["awd 0.01", "no decay"]
    assert differences([{"anchor.norm": "l1"}, {"anchor.norm": "l2"}]) == ["", ""]
