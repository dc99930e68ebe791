"""Every `esft` command of README, and every `esft tune` of the help texts, runs as it is written:
on the embedded model or a tiny one, for a step."""

import re
import shlex
import shutil
import textwrap
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tiny_models import tiny_llama, write_model
from tiny_runs import write_arc

from esft.cli import main

README = (Path(__file__).parents[2] / "README.md").read_text()
HELP = "\n".join(
    CliRunner().invoke(main, arguments, terminal_width=100).output
    for arguments in (["--help"], ["tune", "--help"])
)
RUN = "subtract-two-digits-embedded-1"  # what the quickstart calls its run, here as in README
SMALL = (
    "--device cpu --steps 1 --population 2 --set task.train=3 --set task.holdout=3 "
    "--set task.rows_per_step=2 --set task.max_new_tokens=4 --set prior.rows=2"
)
OWN_QUICKSTART = f"tune quickstart {SMALL} --prior copy-letters"

INSTEAD = (  # what stands in a command, and what here instead: models of the hub, names, sizes
    (r"\bQwen2.5-[\d.]+B\b|(?<!/)\bSmolLM2-135M-Instruct\b|\S+\.gguf\b", "base"),
    (r"--weights codes", "--weights int4"),
    (r"know:\d+ source=nq-open", "know:2 source=copy-letters"),
    (r"^tasks know", "tasks know --source copy-letters"),
    (r"^tune know-smollm2-135m", r"\g<0> --model base --set task.source=add-two-digits"),
    (r"\bRUN(\.\.\.)?|\bshot$", RUN),
    (r"--data-dir \S+", "--data-dir data"),
    (r"--at (\d+)(?!\S)", "--at 1"),
    (r"--at [\d,]+last", "--at 1,last"),
    (r"^tune NAME", "tune quickstart"),
    (r"^eval chain", f"eval {RUN}"),
    (r"^tasks NAME", "tasks countdown"),
    (r"^replay my.jsonl --model BASE", f"replay runs/{RUN}/journal.jsonl --model embedded"),
    (r"^(tune (?!.*--run-dir).*)", r"\1 --run-dir out"),
    (r"^(tune|plan) (arc|conciseness)-\S+", r"\g<0> --model base"),
    (r"^tune .*|^plan .* --calibrate", rf"\g<0> {SMALL}"),
    (r"^tune quickstart(?!.* --prior ).*", r"\g<0> --prior copy-letters"),
    (
        r"^(tune quickstart --sigma auto).*",  # of a run that is long enough, as far as its trial
        r"\1 --steps 20 --population 8 --set task.rows_per_step=8 --set task.holdout=4 "
        "--set prior.rows=2 --dry-run",
    ),
    (r"^probe .*", r"\g<0> --device cpu --sigmas 0.01 --members 4 --rows 4"),
    (r"^ask .*", r"\g<0> --tokens 4"),
    (r"^eval .*", r"\g<0> --kl-prompts 2 --kl-tokens 4"),
    (
        r"^plasticity .*",
        r"\g<0> --steps 1 --seeds 1 --rows 4 --set task.train=8 --set task.rows_per_step=2 "
        "--kl-prompts 2 --kl-tokens 4",
    ),
    (r"^(plasticity .*--proxy.*)--steps 1 ", r"\1"),
    (r"^doctor", "doctor --device cpu"),
    (r"^(bench rollout) .*", r"\1 --rows 2 --population 2 --rounds 1 --batch 2 --max-new-tokens 2"),
)
PARSED_ALONE = {  # and why no more than the options of these is looked at here
    "bench": "times for two minutes; tests/cli/test_bench_command.py runs its parts",
    "export --out tuned.gguf": "tests/export/test_export_gguf.py writes .gguf files",
    "export --out DIR --push ME/NAME": "tests/export/test_push.py pushes to a hub on this machine",
}
NAMED = "export"
"""Commands that README names by themselves, in a sentence: nobody types them so."""


def unfolded(text):
    return re.sub(r"\\\n\s*", "", text)


def commands(text):
    """The commands of a text, without `esft` and comments: in lines of their own, after another
    command, and in sentences."""
    begin, end = r"(?:^ {4,}|: |`|<!-- |&& *)", r"(?= {2,}|\s*#|`| -->|\s*&&|$)"
    return re.findall(rf"{begin}esft (\w.*?){end}", unfolded(text), re.MULTILINE)


def adapted(command):
    for pattern, other in INSTEAD:
        command = re.sub(pattern, other, command)
    return command


HELP_EXAMPLES = re.findall(r"^ +esft (tune .*[-=\d].*)$", unfolded(HELP), re.MULTILINE)
EXAMPLES = sorted({*commands(README), *HELP_EXAMPLES} - {NAMED})
ADAPTED = {adapted(example): example for example in EXAMPLES}  # what comes to the same, once


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with all that the examples name: models, rows, a recipe and a run."""
    folder = tmp_path_factory.mktemp("examples")
    write_model(folder / "base")
    write_model(folder / "merged", tiny_llama(seed=1))
    write_arc(folder / "data")
    write_own_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(f"recipes copy quickstart {folder}/my.toml")
        run(OWN_QUICKSTART)
    return folder


def write_own_files(folder):
    """Write README's own tasks: the program as it stands there, its row as often as needed; a file
    of prior tasks, and one of questions."""
    (folder / "tasks.txt").write_text("arc-easy:3\n")
    (folder / "questions.txt").write_text("Why?\nHow?\n")
    (row,) = re.findall(r"^    (\{.*\})$", README, re.MULTILINE)
    lines = [row.replace("Ada", f"Ada {number}") for number in range(8)]
    (folder / "my.jsonl").write_text("\n".join(lines))
    (program,) = re.findall(r"^    def rows\(\):\n(?:    .*\n|\n)+", README, re.MULTILINE)
    (folder / "my.py").write_text(textwrap.dedent(program.partition("    esft ")[0]))


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy of that folder, to work in, of which nothing is left."""
    folder = shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ESFT_DATA_DIR", "data")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """No browser, and of the hub one data set, of the form that README's example has."""
    row = {"question": "Sky?", "choices": {"text": ["red", "blue"]}, "answerKey": "B"}
    monkeypatch.setattr("webbrowser.open", lambda address: True)
    monkeypatch.setattr("esft.hub.answer_of", lambda address: 200)
    monkeypatch.setattr("esft.bench.doctor.answer_of", lambda address: 200)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: {"train": [row] * 3})


def run(command):
    done = CliRunner().invoke(main, shlex.split(command), input="y\n")
    assert done.exit_code == 0, f"esft {command}\n{done.output}"
    return done


def test_every_command_that_readme_names_is_among_the_examples():
    named = re.findall(rf"(?<!-m )\besft (?:{'|'.join(main.commands)})\b", README)

    assert len(named) == len(commands(README)) > 40
    assert len(HELP_EXAMPLES) >= 4


def test_every_rule_is_for_some_example():
    assert {*PARSED_ALONE, NAMED} <= {*commands(README)}
    for number, (pattern, _) in enumerate(INSTEAD):
        before = [example for example in EXAMPLES if example not in PARSED_ALONE]
        for earlier, other in INSTEAD[:number]:
            before = [re.sub(earlier, other, example) for example in before]
        assert any(re.search(pattern, example) for example in before), pattern


@pytest.mark.parametrize("command", ADAPTED, ids=ADAPTED.values())
def test_an_example_runs(command, place):
    example = ADAPTED[command]
    if example in PARSED_ALONE:
        name, *arguments = shlex.split(example)
        # Under esft, as typed: a command keeps the help option that it is first asked for.
        esft = click.Context(main, info_name="esft", **main.context_settings)
        main.commands[name].make_context(name, arguments, parent=esft)
        return
    if tracker := re.search(r"--track (\w+)", example):
        pytest.importorskip(tracker[1])
    named = re.findall(r"(?:--out|--run-dir|^recipes copy \w+) (\S+)", command)
    writes = [place / name for name in named]
    for path in writes:
        path.unlink(missing_ok=True)

    run(command)

    assert all(path.exists() for path in writes) or "--dry-run" in command
