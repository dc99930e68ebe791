"""Records that were edited or replaced are read as esft writes them, or refused in a sentence."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from records import a_score, a_step, an_info

from esft.errors import RunError
from esft.rollout.typed import to_json
from esft.runs.listing import DAMAGED, listed_runs
from esft.runs.records import (
    RecordedRow,
    drop_after,
    evaluation,
    metrics,
    read_info,
    read_lines,
    rows_path,
    scores,
)

INFO = to_json(an_info())
SCORE = to_json(a_score(0))
STEP = to_json(a_step(1))
ROW = to_json(RecordedRow(id="a", key="b", reward=1.0, correct=True, answers=("c",)))
PIPES = ("run.json", "metrics.jsonl", "evals.jsonl", "journal.jsonl")

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 10**6, 10**400, 1e308, float("nan"), float("inf")])
    | st.floats()
    | st.text(st.characters(), max_size=8),  # also halves of surrogate pairs
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def damaged(record):
    """Return records like `record`, with a value or two of another kind, or missing, or none."""
    keys = [(key,) for key in record]
    keys += [
        (key, inner) for key in record if isinstance(record[key], dict) for inner in record[key]
    ]

    def change(changes):
        changed = json.loads(json.dumps(record))
        for (*way, key), value, drop in changes:
            place = changed
            for part in way:
                place = place.get(part) if isinstance(place, dict) else None
            if isinstance(place, dict):
                place[key] = value
                if drop:
                    del place[key]
        return changed

    changes = st.tuples(st.sampled_from(keys), anything, st.booleans())
    return st.lists(changes, min_size=1, max_size=2).map(change) | anything


def made(folder):
    """Write a run folder and return it."""
    run = folder / "runs" / "mine"
    (run / "evals").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(INFO))
    (run / "recipe.toml").write_text("")
    (run / "journal.jsonl").write_text('{"format":1,"checksum":"0"}\n')
    (run / "metrics.jsonl").write_text(json.dumps(STEP) + "\n")
    (run / "evals.jsonl").write_text(json.dumps(SCORE) + "\n")
    (run / "evals" / "arc-0.jsonl").write_text(2 * (json.dumps(ROW) + "\n"))
    return run


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return made(tmp_path)


def read_all(run):
    """Read what runs, verify and resume read of a run besides its journal."""
    info, recorded = read_info(run), scores(run)
    metrics(run)
    for score in recorded:
        evaluation(run, score)
        read_lines(rows_path(run, score), RecordedRow)
    drop_after(run, 0)
    return info


def refusal(read, *given):
    """Return the error with which something is refused, or None."""
    try:
        read(*given)
    except RunError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("file", "record"),
    [
        ("run.json", INFO),
        ("metrics.jsonl", STEP),
        ("evals.jsonl", SCORE),
        ("evals/arc-0.jsonl", ROW),
    ],
)
def test_a_record_of_any_shape_is_read_or_refused(file, record, run):
    whole = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    @given(damaged(record))
    @settings(max_examples=120)
    def check(changed):
        for path, content in whole.items():
            path.write_bytes(content)
        (run / file).write_text(json.dumps(changed) + "\n")

        error = refusal(read_all, run)

        assert error is None or (str(run) in str(error) and error.hint)
        (listed,) = listed_runs()
        json.dumps(vars(listed))
        str(vars(listed).values()).encode()  # can be printed

    check()


@given(st.binary(max_size=40))
@example(b"[" * 100_000)
@example(b"9" * 5_000)
@settings(max_examples=60)
def test_bytes_of_any_kind_are_refused(content):
    with TemporaryDirectory() as folder:
        for file, read in (("run.json", read_info), ("metrics.jsonl", metrics)):
            Path(folder, file).write_bytes(content + b"\n")

            error = refusal(read, Path(folder))

            assert file in str(error)
            assert error.hint


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("threads", 0, "threads is 0, expected 1 to 1024"),
        ("threads", "x", "threads is 'x', expected a whole number"),
        ("threads", 10**6, "threads is 1000000, expected 1 to 1024"),
        ("threads", True, "threads is True, expected a whole number"),
        ("batches", [], "the number of batches is 0, expected 1 or more"),
        ("batches", [[0, 0]], "a size in batches is 0, expected 1 or more"),
        ("batches", [[0]], r"batches\[0\] is \[0\], expected a list"),
        ("state", "lost", "state is 'lost', expected running or finished or stopped or failed"),
        ("saved", None, "saved is missing, expected it once state is finished"),
        ("saved", INFO["saved"] | {"step": -1}, "step is -1, expected 0 or more"),
        ("model", {"id": 3}, "model.id is 3, expected a text"),
        ("model", {"id": "\ud800"}, "model.id is '.ud800', expected a text"),
        ("settings", {"task.name": "arc"}, "id is not set, expected text"),
        ("settings", {"model.id": "a", "task.name": "arc", "search.steps": "9"}, 'steps is "9"'),
    ],
)
def test_a_value_of_run_json_that_cannot_be_is_refused_by_name(run, key, value, problem):
    changed = INFO | {key: INFO[key] | value if key == "model" else value}
    (run / "run.json").write_text(json.dumps(changed))

    with pytest.raises(RunError, match=f"run.json is not as esft writes it: .*{problem}"):
        read_info(run)


def a_folder(file):
    file.mkdir()


def a_link_to_itself(file):
    file.symlink_to(file.name)


@pytest.mark.parametrize("put", [os.mkfifo, a_folder, a_link_to_itself])
@pytest.mark.parametrize("file", PIPES)
def test_what_is_no_file_is_refused_at_once_and_its_run_is_damaged(run, file, put):
    (run / file).unlink()
    put(run / file)

    (listed,) = listed_runs()

    assert listed.state == DAMAGED
    assert f"{Path('runs/mine', file)} cannot be read" in listed.problem
