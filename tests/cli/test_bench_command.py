"""`esft bench`: tables for people, records for programs."""

import json

import pytest
from command import esft

SMALL = ("--model", "embedded", "--device", "cpu", "--population", "4", "--rounds", "1")
FEW = ("--rows", "5", "--batch", "2")


def test_all_three_parts_are_shown_with_the_machine_in_80_columns():
    done = esft("bench", *SMALL, *FEW)

    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "torch" in lines[0]
    headings = [line for line in lines if line.startswith(("engine: ", "rollout: ", "step: "))]
    assert len(headings) == 3
    for label in ("perturb by log", "published, subtract", "generate", "choice", "plain inference"):
        assert label in done.stdout


@pytest.mark.parametrize(
    ("part", "options"), [("engine", SMALL), ("rollout", (*SMALL[:4], "--rounds", "1", *FEW))]
)
def test_one_part_alone_as_json(part, options):
    done = esft("bench", part, *options, "--json")

    assert done.exit_code == 0, done.stderr
    (name,), (result,) = zip(*json.loads(done.stdout).items(), strict=True)
    assert name == part
    assert result["rounds"] == 1
    assert result["model"] == "embedded"
    assert result["machine"]["versions"]["esft"]


def test_an_option_that_a_part_has_no_use_for_is_refused():
    done = esft("bench", "engine", "--rows", "5")

    assert done.exit_code == 2
    assert "--rows is for rollout alone, expected options of engine" in done.stderr


def test_an_unknown_model_and_an_odd_population_end_in_words(tmp_path):
    unknown = esft("bench", "engine", "--model", tmp_path / "none")
    odd = esft("bench", "step", "--population", "5", "--device", "cpu")

    assert unknown.exit_code == 1
    assert "Error: " in unknown.stderr
    assert odd.exit_code == 2
    assert "population is 5, expected an even number" in odd.stderr
