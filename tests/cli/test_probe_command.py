"""`esft probe`."""

import json
import math

import pytest
from command import esft
from tiny_runs import a_recipe

from esft.recipe.toml import dump_recipe, load_recipe
from esft.tuning.population import Population
from esft.tuning.recommend import REACH, reach_of

SIGMAS = "0.003,0.3,1e30"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    file = folder / "my.toml"
    file.write_text(dump_recipe(a_recipe(folder, task={"train": 24})))
    return file


@pytest.fixture(scope="module")
def probed(recipe):
    """What a probe prints as JSON, and the recipe that it wrote."""
    out = recipe.with_name("out.toml")
    wanted = "--json", "--out", out, "--plot", out.with_suffix(".png")
    done = esft("probe", recipe, "--sigmas", SIGMAS, "--members", 8, *wanted)
    assert done.exit_code == 0, done.stderr
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    return json.loads(done.stdout), out


def test_the_recommendation_is_a_recipe_and_a_line_that_walk_as_far_as_they_should(recipe, probed):
    result, out = probed
    advised = result["recommendation"]

    assert [one["sigma"] for one in result["sigmas"]] == [0.003, 0.3, 1e30]
    assert [one["verdict"] for one in result["sigmas"]] == ["no signal", "works", "too large"]
    assert (advised["verdict"], advised["sigma"]) == ("works", 0.3)
    before, search = load_recipe(str(recipe), {}), load_recipe(str(out), {}).search
    assert (search.sigma, search.alpha, search.population) == (
        advised["sigma"],
        advised["alpha"],
        advised["population"],
    )
    assert reach_of(search) == pytest.approx(REACH, rel=0.05)
    words = f"--sigma 0.3 --alpha {advised['alpha']:g} --population {advised['population']}"
    assert advised["command"].endswith(f" tune {recipe} {words}")
    typed = esft(*advised["command"].split()[1:], "--dry-run", "--json")
    assert typed.exit_code == 0, typed.stderr
    # Steps, rows and the rest are those of the recipe.
    kept = {"search.sigma": 0.02, "search.alpha": 0.02, "search.population": 4}
    assert load_recipe(str(out), kept) == before


def test_figures_are_those_of_the_same_members_and_rows_at_each_sigma(recipe, probed):
    result, _ = probed
    small, works, large = result["sigmas"]

    assert (result["members"], result["rows"], result["stopped"]) == (8, 12, False)
    assert small["signal"]["telling"] < works["signal"]["telling"]
    assert large["signal"]["change"] < 0
    assert large["signal"]["improving"] == 0
    assert small["unmoved"] < 0.01
    assert works["signal"]["change"] < works["chosen_change"] <= works["signal"]["best"]["8"]
    assert {*works["signal"]["best"]} == {"5", "8"}
    assert all(
        one["member_s"] > 0 and math.isfinite(one["fresh_change"]) for one in result["sigmas"]
    )
    # One sigma by itself says the same of it, to the bit; by another option for the same seed, too.
    alone = esft("probe", recipe, "--sigmas", "0.3", "--members", 8, "--seed", 1, "--json")
    assert json.loads(alone.stdout)["sigmas"][0] | {"member_s": 0} == works | {"member_s": 0}


def test_ctrl_c_prints_what_is_measured(recipe, monkeypatch):
    roll_out = Population.roll_out
    calls = []

    def stopped(self, *args):
        calls.append(args[:2])
        if len(calls) == 3:  # the members of the second sigma
            raise KeyboardInterrupt
        return roll_out(self, *args)

    monkeypatch.setattr(Population, "roll_out", stopped)
    done = esft("probe", recipe, "--sigmas", SIGMAS, "--members", 4)

    assert done.exit_code == 130
    assert "Stopped: 1 of 3 sigmas were measured." in done.stdout
    assert "0.003" in done.stdout
    assert "recommended" not in done.stdout
    # All but the lines that name files, and the one to paste.
    assert max(len(line) for line in done.stdout.splitlines() if "/" not in line) <= 80

    first, again, second = calls
    assert first == second  # members and rows are the same at each sigma
    assert not {row.row.id for row in first[1]} & {row.row.id for row in again[1]}
    assert {*again[0]} < {*first[0]}

    calls[:] = [None, None]
    assert esft("probe", recipe, "--members", 4).output.endswith("Stopped.\n")


def test_all_rows_wrong_are_no_signal_and_another_reward_is_advised(recipe, tmp_path):
    out = tmp_path / "out.toml"
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "{n} + 1 =", "answer": "{n + 1}"}}\n' for n in range(30)))

    done = esft(
        *("probe", recipe, "--task", rows, "--grader", "number", "--rows", 4, "--members", 4),
        *("--set", "task.holdout=4", "--sigmas", "1e-4", "--out", out),
    )

    assert done.exit_code == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "no row of 4 earns anything, and 100% of the answers are cut off: --set" in said
    assert "task.max_new_tokens=12, or easier rows" in said
    assert done.stdout.strip().endswith("--set task.reward=logprob")
    assert " probe " in done.stdout.splitlines()[-1]
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sigmas", "0.1,0.1"), "--sigmas has 0.1 after 0.1, expected each larger"),
        (("--sigmas", "0,0.1"), "--sigmas has 0, expected numbers above 0"),
        (("--sigmas", "0.1,nan"), "--sigmas has nan, expected numbers above 0"),
        (("--sigmas", ""), "--sigmas has 0 numbers, expected 1 to 16"),
        (("--sigmas", "0.1,x"), "'0.1,x' is not a list of numbers"),
        (("--members", 3), "--members is 3, expected at least 4"),
        (("--rows", 3), "--rows is 3, expected at least 4"),
        (("--rows", 13), "a probe of 13 rows needs as many fresh ones"),
        (("--out", "my.toml"), "my.toml exists, expected a new file"),
        (("--plot", "my.toml"), "my.toml exists, expected a new file"),
    ],
)
def test_what_no_probe_can_be_made_of_is_refused_before_the_model_is_read(
    recipe, words, said, monkeypatch
):
    monkeypatch.chdir(recipe.parent)
    done = esft("probe", recipe, "--model", "nowhere", *words, width=200)

    assert done.exit_code in (1, 2)
    assert said in " ".join(done.stderr.split())


def test_members_that_share_batches_move_no_weight(recipe):
    done = esft("probe", recipe, "--noise", "lowrank", "--sigmas", "0.1", "--members", 4, "--json")

    assert done.exit_code == 0, done.stderr
    (one,) = json.loads(done.stdout)["sigmas"]
    assert one["unmoved"] is None
    assert one["signal"]["telling"] > 0


def test_a_run_takes_the_sigma_that_members_were_tried_at(recipe):
    done = esft("tune", recipe, "--sigma", "auto", "--steps", 60, "--dry-run")

    assert done.exit_code == 0, done.stderr
    (typed,) = [line for line in done.stderr.splitlines() if line.startswith("  main tune")]
    words = typed.split()
    assert "auto" not in words
    assert float(words[words.index("--sigma") + 1]) > 0
    assert "--alpha" not in words  # that of the recipe stays
    assert esft(*words[1:]).exit_code == 0


def test_auto_is_for_runs_alone(recipe):
    assert "'auto' is not a valid float" in esft("plan", recipe, "--sigma", "auto").stderr
    assert "'x' is not a valid float" in esft("tune", recipe, "--sigma", "x").stderr


def test_a_run_too_short_for_a_trial_says_how_long_it_must_be(recipe):
    done = esft("tune", recipe, "--sigma", "auto")

    said = " ".join(done.stderr.split())
    assert done.exit_code == 2
    assert "--sigma auto tries members for 5% of the run, too little of 3 steps" in said
    assert "--steps 11 or more" in said


def test_what_a_run_would_be_refused_for_is_said_before_its_trial(recipe, monkeypatch):
    taken = recipe.parent / "taken"
    taken.mkdir()
    (taken / "file").touch()
    monkeypatch.setattr("esft.tuning.sigma.choose_sigma", None)  # not reached

    done = esft("tune", recipe, "--sigma", "auto", "--steps", 60, "--run-dir", taken)

    assert done.exit_code == 1
    assert "taken" in done.stderr


def test_the_command_without_awd_has_the_sigma_that_was_chosen(recipe, monkeypatch):
    monkeypatch.setattr("esft.tuning.sigma.SHARE", 1.0)  # else of a run of 11 steps or more
    run = ("--run-dir", recipe.parent / "with-awd", "--steps", 2, "--set", "task.train=8")
    prior = ("--prior", "copy-letters:2")
    done = esft("tune", recipe, "--sigma", "auto", "--awd", 0.01, *prior, *run)

    (said,) = [line for line in done.stdout.splitlines() if line.startswith("The same without")]
    (typed,) = [line for line in done.stderr.splitlines() if line.startswith("  main tune")]
    words = typed.split()
    assert said.endswith(f"--sigma {words[words.index('--sigma') + 1]} --awd 0")
    assert "auto" not in said
