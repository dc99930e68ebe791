import builtins
import json
import sys
from types import SimpleNamespace

import pytest
from loopback_hub import LoopbackHub, run_python

from esft.errors import TaskError
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split, row_source, split_rows
from esft.tasks.sources import folder_rows
from esft.tasks.words import SPLITS

from .some_rows import arc_object, write_rows


def read(folder, split="train"):
    return list(folder_rows(folder, "arc_easy", "use the hub").rows(split))


def read_bytes(tmp_path, data):
    (tmp_path / "arc_easy.train.jsonl").write_bytes(data)
    return read(tmp_path)


def test_rows_come_with_file_and_line_where_blank_lines_count(tmp_path):
    # A byte order mark and line ends of Windows are tolerated.
    rows = read_bytes(tmp_path, b'\xef\xbb\xbf\n{"a": 1}\r\n  \n\r\n{"a": 2}')

    file = tmp_path / "arc_easy.train.jsonl"
    assert rows == [(f"{file} line 2", {"a": 1}), (f"{file} line 5", {"a": 2})]


def test_only_a_line_feed_ends_a_line(tmp_path):
    row = {"a": "one\u2028two\u2029three\x85four"}
    data = json.dumps(row, ensure_ascii=False).encode()

    rows = read_bytes(tmp_path, data + b"\n" + data + b"\n")

    assert [raw for _, raw in rows] == [row, row]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b'{"a": 1', "not JSON: Expecting ',' delimiter at column 8"),
        (b"id,question", "not JSON: Expecting value at column 1"),
        (b"[1, 2]", r"\[1, 2\]"),
        (b"null", "None"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON that can be read: Exceeds the limit"),
        (b"[" * 100_000, "not JSON that can be read: "),
    ],
)
def test_a_line_that_is_not_an_object_is_refused_with_file_and_line(tmp_path, line, wrong):
    with pytest.raises(
        TaskError, match=rf"arc_easy\.train\.jsonl line 3 is {wrong}.*expected one JSON object a"
    ) as caught:
        read_bytes(tmp_path, b'{"a": 1}\n\n' + line + b"\n")

    assert caught.value.hint == "correct that line, or use the hub"


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(TaskError, match=r"arc_easy\.train\.jsonl is empty, expected one JSON"):
        read_bytes(tmp_path, b"\xef\xbb\xbf\n \n")


def test_a_missing_folder_is_refused_with_the_file_it_should_have(tmp_path):
    with pytest.raises(
        TaskError, match=r"nowhere is not a folder, expected one with arc_easy\.train\.jsonl"
    ) as caught:
        read(tmp_path / "nowhere")

    assert caught.value.hint.endswith("name another folder with --data-dir, or use the hub")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("arc_easy.train.jsonl", r"of this task it has arc_easy\.train\.jsonl$"),
        ("arc_challenge.test.jsonl", "of this task it has no file$"),
    ],
)
def test_a_missing_file_is_refused_with_what_the_folder_has_of_the_task(tmp_path, file, message):
    (tmp_path / file).write_bytes(b"{}\n")

    with pytest.raises(TaskError, match=rf"has no arc_easy\.test\.jsonl; {message}") as caught:
        read(tmp_path, "test")

    assert caught.value.hint.startswith("put arc_easy.test.jsonl there")


READ = """
from esft.errors import TaskError
from esft.tasks.registry import get_task
from esft.tasks.rows import split_rows
try:
    split = split_rows(get_task({task!r}), 4, 4)
    print("rows", *(sorted(row.id for row in rows) for rows in (split.train, split.holdout)))
except TaskError as error:
    print("error", error)
    print("hint", error.hint)
"""


@pytest.fixture
def loads(monkeypatch):
    """Put a function in the place of datasets.load_dataset."""

    def install(load_dataset):
        config = SimpleNamespace(HF_HUB_OFFLINE=False)
        module = SimpleNamespace(load_dataset=load_dataset, config=config)
        monkeypatch.setitem(sys.modules, "datasets", module)

    return install


@pytest.fixture
def load_fails(monkeypatch):
    """Let datasets.load_dataset raise the error of this name and text, which is returned."""

    def install(kind, text):
        import datasets
        import huggingface_hub.errors

        homes = (datasets.exceptions, datasets.data_files, huggingface_hub.errors, builtins)
        error = next(getattr(home, kind) for home in homes if hasattr(home, kind))(text)

        def load_dataset(*_, **__):
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return error

    return install


def make_dataset(root):
    """Write the repository of allenai/ai2_arc; rows are numbered through its splits."""
    folder = root / "datasets" / "allenai" / "ai2_arc"
    card = ["---", "configs:"]
    for config in ("ARC-Easy", "ARC-Challenge"):
        card += [f"- config_name: {config}", "  data_files:"]
        (folder / config).mkdir(parents=True)
        for index, split in enumerate(SPLITS):
            numbers = range(10 * index, 10 * index + 4)
            write_rows(folder / config, split, [arc_object(number) for number in numbers])
            card += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))


def test_the_dataset_is_asked_for_by_id_and_config_once_and_without_remote_code(loads):
    asked = []
    rows = {name: [arc_object(index)] for index, name in enumerate(SPLITS)}
    loads(lambda *args, **kwargs: asked.append((args, kwargs)) or rows)

    split_rows(get_task("arc-easy"), 1, 1)

    assert asked == [(("allenai/ai2_arc", "ARC-Easy"), {"trust_remote_code": False})]


def test_a_wrong_row_of_the_hub_is_named(loads):
    loads(lambda *_, **__: {"train": [arc_object(1), arc_object(2, answerKey="E")]})

    with pytest.raises(
        TaskError, match="ai2_arc, ARC-Easy, split train, row 2: column answerKey is 'E', expected"
    ):
        read_split(get_task("arc-easy"), "train")


def test_a_split_that_the_dataset_lacks_is_refused(loads):
    loads(lambda *_, **__: {"train": [{}], "test": []})

    with pytest.raises(TaskError, match="has no split validation, it has: train, test"):
        read_split(get_task("arc-easy"), "validation")


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("DatasetNotFoundError", "'x' is gated", "cannot be loaded: 'x' is gated$"),
        ("ConnectionError", "no", "is not in the cache and the hub cannot be reached$"),
        ("FileNotFoundError", "HTTP Error 500", "cannot be loaded: HTTP Error 500$"),
        ("HTTPError", "502 Bad\n Gateway", "cannot be loaded: 502 Bad Gateway$"),
        ("ValueError", "no such config", "cannot be loaded: no such config$"),
        ("DatasetGenerationError", "broken parquet", "cannot be loaded: broken parquet$"),
    ],
)
def test_an_error_of_the_library_is_explained_with_a_way_to_work_offline(
    load_fails, kind, text, message
):
    error = load_fails(kind, text)

    with pytest.raises(TaskError, match=f"dataset allenai/ai2_arc, ARC-Easy {message}") as caught:
        row_source(get_task("arc-easy")).has("train")

    for word in ("name a folder with arc_easy.train.jsonl as --data-dir", "HF_HOME", "HF_ENDPOINT"):
        assert word in caught.value.hint
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("kind", ["RuntimeError", "KeyboardInterrupt"])
def test_an_error_that_no_user_can_fix_goes_on_as_it_is(load_fails, kind):
    error = load_fails(kind, "a bug")

    with pytest.raises(type(error), match="a bug") as caught:
        row_source(get_task("arc-easy")).has("train")

    assert caught.value is error


def test_a_dataset_is_read_from_a_hub_and_then_from_the_cache_without_one(tmp_path):
    make_dataset(tmp_path / "hub")
    home = tmp_path / "home"
    easy, challenge, piqa = (READ.format(task=task) for task in ("arc-easy", "arc", "piqa"))
    named = "prompt=question,choices=choices.text,answer=answerKey,id=id"
    call = f"get_task('hub:allenai/ai2_arc:ARC-Easy', None, {named!r})"
    own = easy.replace("get_task('arc-easy')", call)

    with LoopbackHub(tmp_path / "hub") as hub:
        online = run_python(easy, endpoint=hub.url, home=home)
    offline = run_python(easy + challenge + piqa + own, endpoint=hub.url, home=home, offline=True)

    assert online.stdout == "rows ['r0', 'r1', 'r2', 'r3'] ['r10', 'r11', 'r12', 'r13']\n", (
        online.stderr
    )
    assert offline.stdout.startswith(online.stdout), offline.stderr
    assert "error dataset allenai/ai2_arc, ARC-Challenge cannot be loaded" in offline.stdout
    assert "arc_challenge.train.jsonl as --data-dir" in offline.stdout
    assert "error dataset baber/piqa is not in the cache and the hub cannot" in offline.stdout
    assert offline.stdout.endswith(online.stdout)  # as a data set of one's own
