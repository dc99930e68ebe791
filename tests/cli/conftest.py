"""A run that several files of tests look at."""

import pytest
from tiny_runs import Notes, a_recipe, never

from esft.tuning.start import run_tuning


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A finished run of three steps on a tiny model; its base model lies beside it."""
    folder = tmp_path_factory.mktemp("made")
    run_tuning(a_recipe(folder), Notes(), never)
    return folder / "run"
