"""One tuned run for all tests of exported models and journals."""

import pytest
from tiny_runs import Notes, a_recipe, never

from esft.tuning.start import run_tuning


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a run of three steps on a tied Llama; base/ beside it is its model."""
    folder = tmp_path_factory.mktemp("one")
    run_tuning(a_recipe(folder, anchor={"awd": 0.5}), Notes(), never)
    return folder / "run"
