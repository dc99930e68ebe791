import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from records import a_score, a_step, an_info

import esft.runs.listing
from esft.rollout.typed import to_json
from esft.runs.listing import listed_runs
from esft.runs.names import RUNS, locked
from esft.runs.records import RUN_FORMAT

HEADER = '{"format":1,"checksum":"0"}\n'


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_run(
    name, *, state="finished", steps=2, age=0, evaluations=((0, 0.25), (2, 0.5)), settings=None
):
    """Write what a list of runs reads of a run, and return its folder."""
    run = RUNS / name
    run.mkdir(parents=True)
    info = an_info(state=state)
    info = replace(info, settings=info.settings | (settings or {}))
    (run / "run.json").write_text(json.dumps(to_json(info)))
    (run / "recipe.toml").write_text("")
    os.utime(run / "recipe.toml", (1e9 - age, 1e9 - age))
    numbers = range(1, steps + 1)
    (run / "journal.jsonl").write_text(HEADER + "".join(f'{{"step":{n}}}\n' for n in numbers))
    scores = [a_score(n, reward=r, accuracy=0.5 + n / 8) for n, r in evaluations]
    scores.insert(1, a_score(0, role="prior", reward=0.9))
    write_lines(run / "metrics.jsonl", [a_step(step, drift=step / 2) for step in numbers])
    write_lines(run / "evals.jsonl", scores)
    return run


def write_lines(path, records):
    path.write_text("".join(json.dumps(to_json(record)) + "\n" for record in records))


def only_run():
    (run,) = listed_runs()
    return run


def test_a_run_is_listed_with_what_it_came_to():
    folder = write_run("arc-embedded-1")

    run = only_run()

    assert (run.name, run.path) == ("arc-embedded-1", str(folder))
    assert (run.model, run.task) == ("embedded", "arc")
    assert (run.steps, run.planned) == (2, 3)
    assert (run.reward_before, run.reward) == (0.25, 0.5)
    assert (run.accuracy_before, run.accuracy) == (0.5, 0.75)
    assert run.drift == 1.0
    assert run.size == sum(file.stat().st_size for file in folder.iterdir())
    assert (run.state, run.problem) == ("finished", None)


def test_the_newest_comes_first():
    for name, age in (("b", 2), ("a", 3), ("c", 1)):
        write_run(name, age=age)

    assert [run.name for run in listed_runs()] == ["c", "b", "a"]


def test_a_run_says_what_sets_it_apart_from_those_of_its_task_and_model_alone():
    write_run("a", age=1, settings={"anchor.awd": 1.4286, "search.seed": 1})
    write_run("b", age=2, settings={"anchor.awd": 0.0, "search.seed": 2})
    write_run("c", age=3, settings={"task.name": "gsm8k", "search.alpha": 0.5})

    assert [run.differs for run in listed_runs()] == ["awd 1.43", "no decay", ""]


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_run_that_has_no_figures_yet_has_the_state_on_record(state):
    folder = write_run("new", state=state, steps=0)
    (folder / "metrics.jsonl").unlink()
    (folder / "evals.jsonl").unlink()

    run = only_run()

    assert (run.state, run.reward_before, run.drift) == (state, None, None)


def test_a_run_is_running_while_a_process_holds_it_and_stopped_after():
    folder = write_run("run", state="running")

    with locked(folder):
        while_held = only_run().state

    assert while_held == "running"
    assert only_run().state == "stopped"


def test_a_run_that_ends_while_it_is_looked_at_is_not_called_stopped(monkeypatch):
    folder = write_run("run", state="running")

    def ends(path):
        (folder / "run.json").write_text(json.dumps(to_json(an_info(state="finished"))))
        return False

    monkeypatch.setattr(esft.runs.listing, "is_locked", ends)

    assert only_run().state == "finished"


@pytest.mark.parametrize("file", ["journal.jsonl", "metrics.jsonl", "evals.jsonl"])
def test_a_line_that_is_being_written_does_not_count(file):
    folder = write_run("run", state="running")
    whole = only_run()
    with open(folder / file, "a") as lines:
        lines.write('{"step":3')

    run = only_run()

    assert (run.steps, run.drift, run.reward) == (whole.steps, whole.drift, whole.reward)
    assert run.problem is None


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("run.json", "{", "run.json cannot be read"),
        ("run.json", '{"format": 99}', "has format 99, expected 4"),
        ("run.json", f'{{"format": {RUN_FORMAT}}}', "not as esft writes it: state is missing"),
        ("metrics.jsonl", '{"drift": 1}\n', "metrics.jsonl: line 1 is not as esft writes it"),
        ("evals.jsonl", b'{"role": "\xff"}\n', "evals.jsonl: line 1 is not as esft writes it"),
        ("journal.jsonl", "", "journal.jsonl does not begin with a header"),
        ("journal.jsonl", None, "journal.jsonl cannot be read: No such file"),
    ],
)
def test_a_run_that_cannot_be_read_is_damaged_and_says_why(file, content, problem):
    folder = write_run("broken", age=1)
    write_run("whole")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    whole, broken = listed_runs()

    assert whole.state == "finished"
    assert broken.state == "damaged"
    assert broken.model == (None if file == "run.json" else "embedded")
    assert problem in broken.problem
    assert broken.size > 0


def test_folders_that_are_no_runs_yet_are_left_out():
    assert listed_runs() == []
    (RUNS / "empty").mkdir(parents=True)
    write_run(".half-made.x1y2")

    assert listed_runs() == []


def test_a_run_that_goes_while_the_list_is_made_is_left_out(monkeypatch, tmp_path):
    write_run("stays")
    gone = tmp_path / "runs" / "gone"
    found = esft.runs.listing.list_runs()
    monkeypatch.setattr(esft.runs.listing, "list_runs", lambda: [gone, *found])

    assert only_run().name == "stays"


def test_torch_is_not_loaded():
    write_run("run", state="running")
    code = (
        "import sys; from esft.cli import main; main(['runs'], standalone_mode=False); "
        "print('torch' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "stopped" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
