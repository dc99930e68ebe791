"""What the shell completes."""

import shutil

import pytest
from click.shell_completion import BashComplete

from esft.cli import main


def completed(*words):
    """The names that the last of some words completes to; files are the shell's."""
    complete = BashComplete(main, {}, "esft", "_ESFT_COMPLETE")
    found = complete.get_completions(list(words[:-1]), words[-1])
    return [item.value for item in found if item.type == "plain"]


OF_RUNS = ("ask", "eval", "export", "plasticity", "replay", "report", "resume", "rm", "verify")


@pytest.mark.parametrize("command", OF_RUNS)
def test_names_of_runs(command, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine-1", "mine-2", "other-1"):
        shutil.copytree(made, tmp_path / "runs" / name)

    assert sorted(completed(command, "mi")) == ["mine-1", "mine-2"]


@pytest.mark.parametrize("command", ["tune", "plan"])
def test_recipes_and_tasks(command):
    assert completed(command, "quickst") == ["quickstart"]
    assert completed(command, "--task", "subtract") == ["subtract-two-digits"]
    assert completed(command, "--prior", "hella") == ["hellaswag"]
    assert completed("tasks", "hella") == ["hellaswag"]


def test_commands_and_options():
    assert completed("doc") == ["doctor"]
    assert completed("ask", "--fi") == ["--file"]


def test_files_are_left_to_the_shell():
    found = BashComplete(main, {}, "esft", "_").get_completions(["tune"], "my.to")

    assert [(item.value, item.type) for item in found] == [("my.to", "file")]
