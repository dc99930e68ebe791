import time
from dataclasses import replace

import pytest
import torch
from tiny_runs import Notes, a_recipe

from esft.recipe.settings import with_settings
from esft.tuning.session import open_session
from esft.tuning.threads import SMALL, faster_threads, fit_threads


@pytest.fixture(autouse=True)
def _threads_of_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("seconds", "chosen"), [((0.05, 0.01), 2), ((0.01, 0.05), 1)])
def test_a_large_model_takes_what_a_trial_is_faster_with(seconds, chosen):
    def work():
        time.sleep(seconds[torch.get_num_threads() - 1])

    assert faster_threads(SMALL + 1, 2, work) == chosen


def test_a_small_model_takes_one_thread_without_a_trial():
    assert faster_threads(SMALL, 8, lambda: pytest.fail("it was tried")) == 1


@pytest.mark.parametrize(
    ("asked", "environment", "chosen"), [(None, None, 1), (None, "2", 2), (3, "2", 3)]
)
def test_the_recipe_goes_before_the_environment_and_that_before_a_choice(
    asked, environment, chosen, tmp_path, monkeypatch
):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    session = open_session(a_recipe(tmp_path))
    session = replace(session, recipe=with_settings(session.recipe, {"run.threads": asked}))
    torch.set_num_threads(2)

    fit_threads(session, Notes())

    assert torch.get_num_threads() == chosen
