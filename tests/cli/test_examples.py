"""Every `esft tune` of README and of the help texts runs: on a tiny model, for a step."""

import re
import shlex
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_models import write_model
from tiny_runs import write_arc

from esft.cli import main

README = (Path(__file__).parents[2] / "README.md").read_text()
HELP = "\n".join(
    CliRunner().invoke(main, arguments, terminal_width=100).output
    for arguments in (["--help"], ["tune", "--help"])
)
SMALL = (
    "--device cpu --steps 1 --population 2 --set task.train=3 --set task.holdout=3 "
    "--set task.rows_per_step=2 --set task.max_new_tokens=4"
)


def examples(text):
    whole_lines = re.sub(r"\\\n\s*", "", text)
    return re.findall(r"^ +esft (tune .*[-=\d].*)$", whole_lines, re.MULTILINE)


EXAMPLES = sorted({*examples(README), *examples(HELP)})


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    return write_model(folder / "base"), write_arc(folder / "data")


def write_own_tasks(folder):
    """Write README's own tasks: the program as it stands there, its row as often as needed; and a
    file of prior tasks."""
    (folder / "tasks.txt").write_text("arc-easy:3\n")
    (row,) = re.findall(r"^    (\{.*\})$", README, re.MULTILINE)
    lines = [row.replace("Ada", f"Ada {number}") for number in range(8)]
    (folder / "my.jsonl").write_text("\n".join(lines))
    (program,) = re.findall(r"^    def rows\(\):\n(?:    .*\n|\n)+", README, re.MULTILINE)
    (folder / "my.py").write_text(textwrap.dedent(program.partition("    esft ")[0]))


def test_there_are_examples():
    assert len(examples(README)) >= 4
    assert len(examples(HELP)) >= 4


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(example, places, tmp_path, monkeypatch):
    base, data = places
    monkeypatch.setenv("ESFT_DATA_DIR", str(data))
    monkeypatch.chdir(tmp_path)
    write_own_tasks(tmp_path)
    arguments = shlex.split(f"{example} {SMALL}")
    arguments += ["--model", str(base), "--run-dir", str(tmp_path / "out")]
    if "--track" in arguments:
        pytest.importorskip(arguments[arguments.index("--track") + 1])
    if "--data-dir" in arguments:
        arguments += ["--data-dir", str(data)]

    done = CliRunner().invoke(main, arguments)

    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
