import os
from pathlib import Path

import pytest


@pytest.fixture
def data_dir():
    """The folder with rows of public benchmarks."""
    folder = os.environ.get("ESFT_DATA_DIR")
    if not folder:
        pytest.skip("ESFT_DATA_DIR is not set: no folder with rows of public benchmarks")
    return Path(folder)
