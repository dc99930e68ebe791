"""What commands do as one of the processes of a torchrun."""

import re
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
from command import esft
from tiny_runs import Notes, a_recipe, never

from esft.cli.show import show_work
from esft.errors import RecipeError, RunError
from esft.recipe.settings import Run
from esft.recipe.toml import dump_recipe
from esft.tuning.ranks import Place, joined, place
from esft.tuning.start import run_tuning


@pytest.fixture
def rank(monkeypatch):
    """Return what makes this process a rank of two."""

    def of(number):
        there = {"RANK": number, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}
        for name, value in {**there, "LOCAL_RANK": number, "LOCAL_WORLD_SIZE": 2}.items():
            monkeypatch.setenv(name, str(value))

    return of


def test_the_place_is_that_of_the_environment_and_alone_where_it_is_not_whole(rank, monkeypatch):
    rank(1)
    assert place() == Place(rank=1, world=2, local_rank=1, local_world=2)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert (place().restarts, place().may_restart) == (2, True)
    monkeypatch.delenv("MASTER_PORT")
    assert place() == Place()
    with joined() as ranks:
        assert ranks is None


def test_of_a_command_for_one_process_rank_0_says_so_and_the_others_end_quietly(rank):
    rank(0)
    leader = esft("settings", "reward")
    rank(1)
    follower = esft("settings", "reward")

    assert (leader.exit_code, follower.exit_code) == (0, 0)
    assert leader.stderr.startswith("One process is enough for esft settings")
    assert "[task]" in leader.stdout
    assert (follower.stdout, follower.stderr) == ("", "")


def test_a_follower_shows_nothing_and_says_which_rank_fails_before_they_meet(rank, tmp_path):
    file = tmp_path / "my.toml"
    file.write_text(dump_recipe(a_recipe(tmp_path)))
    rank(1)

    dry = esft("tune", file, "--dry-run")
    wrong = esft("tune", "nosuch")

    assert (dry.exit_code, dry.stdout, dry.stderr) == (0, "", "")
    assert wrong.stderr.startswith("Error: rank 1: no recipe is called")
    with show_work() as watcher:
        watcher.phase("loading")
        watcher.notice("slow")
        signal.raise_signal(signal.SIGTERM)  # for rank 0 to heed
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_minutes_are_for_one_process(rank):
    rank(0)

    done = esft("tune", "quickstart", "--minutes", 5)

    assert done.exit_code == 2
    assert re.search(r"run it without torchrun", " ".join(done.stderr.split()))


def test_a_run_that_torchrun_may_start_again_needs_a_name_and_goes_on_with_its_own_alone(tmp_path):
    recipe = a_recipe(tmp_path, steps=1)
    ranks = SimpleNamespace(place=Place(world=2, may_restart=True, restarts=1))
    run_tuning(recipe, Notes(), never)
    unnamed = replace(recipe, run=Run())
    other = replace(recipe, search=replace(recipe.search, sigma=0.5))

    with pytest.raises(RecipeError, match="--max-restarts, expected a name") as caught:
        run_tuning(unnamed, Notes(), never, ranks=ranks)
    with pytest.raises(RunError, match=r"search.sigma is 0.5, the run has 0.02"):
        run_tuning(other, Notes(), never, ranks=ranks)
    again = run_tuning(
        replace(recipe, search=replace(recipe.search, seed=None)), Notes(), never, ranks=ranks
    )

    assert "--run-dir" in caught.value.hint
    assert (again.run_path, again.steps) == (str(tmp_path / "run"), 1)
