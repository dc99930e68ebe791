"""What only a GPU can show: python -m pytest tests/cuda --cuda-report FILE

The same tests run on a CPU with `--on cpu`, which shows that the tests themselves work.
"""

import shlex
import sys
from pathlib import Path

import pytest
import torch

from esft.bench.timing import machine
from esft.rollout.typed import json_text

HERE = Path(__file__).parent
LINES = pytest.StashKey[list]()


def pytest_addoption(parser):
    parser.addoption("--on", default="cuda", help="device of tests/cuda: cuda, cuda:N or cpu")
    parser.addoption("--cuda-report", help="file to write what tests/cuda found to")


def pytest_configure(config):
    config.stash[LINES] = []


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cuda)


@pytest.fixture(scope="session")
def device(request):
    """Where the tests run; they skip where there is none."""
    named = torch.device(request.config.getoption("--on", "cuda"))
    if named.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no cuda device")
    return named


@pytest.fixture
def note(request):
    """Writes a text to the report, under the name of the test."""
    lines = request.config.stash[LINES]
    return lambda text: lines.append(f"{request.node.name}\n\n{text}")


def pytest_terminal_summary(terminalreporter, config):
    file = config.getoption("--cuda-report", None)
    if file is None:
        return
    lines = ["# esft on " + (", ".join(machine().gpus) or "no GPU"), ""]
    lines += [f"    {shlex.join(['python', '-m', 'pytest', *sys.argv[1:]])}", ""]
    lines += [f"    {json_text(machine())}", ""]
    for outcome in ("failed", "error", "passed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            why = str(report.longrepr[-1]) if outcome == "skipped" else report.longreprtext
            lines.append(f"- {outcome}: {report.nodeid}")
            lines += [f"        {line}" for line in why.splitlines()]
    lines += [f"\n## {text}" for text in config.stash[LINES]]
    Path(file).write_text("\n".join(lines) + "\n")
