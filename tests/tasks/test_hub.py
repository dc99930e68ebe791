import builtins
import sys
from types import SimpleNamespace

import pytest
from loopback_hub import LoopbackHub, run_python

from esft.errors import TaskError
from esft.tasks.hub import HubRows
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split, split_rows
from esft.tasks.task import HubSource

from .some_rows import arc_object, plain_task, write_rows

ARC = HubSource(id="allenai/ai2_arc", config="ARC-Easy")
OFFLINE = "name a folder with arc_easy.train.jsonl as --data-dir"
SPLITS = ("train", "validation", "test")

READ = """
from esft.errors import TaskError
from esft.tasks.registry import get_task
from esft.tasks.rows import split_rows
try:
    split = split_rows(get_task({task!r}), 3, 2)
    print("rows", [row.id for row in split.train], [row.id for row in split.holdout])
except TaskError as error:
    print("error", error)
    print("hint", error.hint)
"""


@pytest.fixture
def loads(monkeypatch):
    """Put a function in the place of datasets.load_dataset."""

    def install(load_dataset):
        module = SimpleNamespace(load_dataset=load_dataset)
        monkeypatch.setitem(sys.modules, "datasets", module)

    return install


@pytest.fixture
def load_fails(monkeypatch):
    """Let datasets.load_dataset raise the error of this name and text; returns the error."""

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


def make_dataset(root, configs=("ARC-Easy",)):
    """Write the repository of allenai/ai2_arc; rows are numbered through its splits."""
    folder = root / "datasets" / ARC.id
    card = ["---", "configs:"]
    for config in configs:
        card += [f"- config_name: {config}", "  data_files:"]
        (folder / config).mkdir(parents=True)
        for index, split in enumerate(SPLITS):
            numbers = range(10 * index, 10 * index + 4)
            write_rows(folder / config, split, [arc_object(number) for number in numbers])
            card += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))


def test_rows_are_numbered_within_dataset_and_split(loads):
    loads(lambda *_, **__: {"train": [{"a": 1}, {"a": 2}]})

    found = list(HubRows(ARC, "arc_easy").rows("train"))

    where = "allenai/ai2_arc, ARC-Easy, split train, row"
    assert found == [(f"{where} 1", {"a": 1}), (f"{where} 2", {"a": 2})]


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


def test_a_split_that_the_dataset_lacks_is_refused_with_those_it_has(loads):
    loads(lambda *_, **__: {"train": [{}], "test": [{}]})

    with pytest.raises(TaskError, match="has no split validation, it has: train, test") as caught:
        list(HubRows(ARC, "arc_easy").rows("validation"))

    assert OFFLINE in caught.value.hint


def test_a_split_without_rows_is_refused(loads):
    loads(lambda *_, **__: {"train": []})

    with pytest.raises(TaskError, match="split train has no rows"):
        list(HubRows(ARC, "arc_easy").rows("train"))


@pytest.mark.parametrize("has_validation", [True, False])
def test_holdout_rows_come_from_the_validation_split_where_there_is_one(loads, has_validation):
    splits = {"train": [{"prompt": f"t{number}"} for number in range(4)]}
    if has_validation:
        splits["validation"] = [{"prompt": "v0"}, {"prompt": "v1"}]
    loads(lambda *_, **__: splits)

    split = split_rows(plain_task(hub=HubSource(id="a/b")), 2, 2)

    assert [row.id for row in split.holdout] == (["v0", "v1"] if has_validation else ["t2", "t3"])


GONE = "is not on the hub, or you have no access to it$"
UNREACHABLE = "is not in the cache and the hub cannot be reached$"
NOT_LOADED = "cannot be loaded"


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("DatasetNotFoundError", "Dataset 'x' doesn't exist on the Hub", GONE),
        ("DatasetNotFoundError", "Dataset 'x' is a gated dataset", "is gated on the hub$"),
        ("ConnectionError", "Couldn't reach 'x' on the Hub", UNREACHABLE),
        ("FileNotFoundError", "HTTP Error 500", f"{NOT_LOADED}: HTTP Error 500$"),
        ("EmptyDatasetError", "no data files", f"{NOT_LOADED}: no data files$"),
        ("HTTPError", "502 Bad\n Gateway", f"{NOT_LOADED}: 502 Bad Gateway$"),
        ("ValueError", "BuilderConfig not found", f"{NOT_LOADED}: BuilderConfig not found$"),
        ("DatasetGenerationError", "broken parquet", f"{NOT_LOADED}: broken parquet$"),
        ("OSError", "No space left on device", f"{NOT_LOADED}: No space left on device$"),
        ("RuntimeError", "Dataset scripts are no longer supported", "needs a dataset script"),
    ],
)
def test_an_error_of_the_library_is_explained_with_a_way_to_work_offline(
    load_fails, kind, text, message
):
    error = load_fails(kind, text)

    with pytest.raises(TaskError, match=f"dataset allenai/ai2_arc, ARC-Easy {message}") as caught:
        HubRows(ARC, "arc_easy").has("train")

    assert OFFLINE in caught.value.hint
    assert "HF_HOME" in caught.value.hint
    assert "HF_ENDPOINT" in caught.value.hint
    assert caught.value.__cause__ is error


def test_a_gated_dataset_says_how_to_get_access(load_fails):
    load_fails("DatasetNotFoundError", "Dataset 'x' is a gated dataset on the Hub.")

    with pytest.raises(TaskError, match="gated") as caught:
        HubRows(ARC, "arc_easy").has("train")

    terms = "accept its terms at https://huggingface.co/datasets/allenai/ai2_arc"
    assert caught.value.hint.startswith(f"{terms} and log in with `hf auth login`")


@pytest.mark.parametrize("kind", ["TypeError", "RuntimeError", "KeyboardInterrupt"])
def test_an_error_that_no_user_can_fix_goes_on_as_it_is(load_fails, kind):
    error = load_fails(kind, "a bug")

    with pytest.raises(type(error), match="a bug") as caught:
        HubRows(ARC, "arc_easy").has("train")

    assert caught.value is error


def test_a_dataset_is_read_from_a_hub_and_then_from_the_cache_without_one(tmp_path):
    make_dataset(tmp_path / "hub", configs=("ARC-Easy", "ARC-Challenge"))
    home = tmp_path / "home"
    easy, challenge = READ.format(task="arc-easy"), READ.format(task="arc")

    with LoopbackHub(tmp_path / "hub") as hub:
        online = run_python(easy, endpoint=hub.url, home=home)
    offline = run_python(easy, endpoint=hub.url, home=home, offline=True)
    not_cached = run_python(challenge, endpoint=hub.url, home=home, offline=True)

    assert online.stdout == "rows ['r0', 'r1', 'r2'] ['r10', 'r11']\n", online.stderr
    assert offline.stdout == online.stdout, offline.stderr
    assert "error dataset allenai/ai2_arc, ARC-Challenge cannot be loaded" in not_cached.stdout
    assert "arc_challenge.train.jsonl as --data-dir" in not_cached.stdout


def test_a_hub_that_does_not_know_the_dataset(tmp_path):
    (tmp_path / "datasets").mkdir()

    with LoopbackHub(tmp_path) as hub:
        found = run_python(READ.format(task="arc"), endpoint=hub.url, home=tmp_path / "home")

    message = "error dataset allenai/ai2_arc, ARC-Challenge is not on the hub, or you have no"
    assert found.stdout.startswith(message), found.stderr


def test_a_hub_that_gates_the_dataset(tmp_path):
    make_dataset(tmp_path)

    with LoopbackHub(tmp_path, gated={ARC.id}) as hub:
        found = run_python(READ.format(task="arc-easy"), endpoint=hub.url, home=tmp_path / "home")

    message = "error dataset allenai/ai2_arc, ARC-Easy is gated on the hub"
    assert found.stdout.startswith(message), found.stderr


def test_no_hub_and_an_empty_cache(tmp_path):
    found = run_python(
        READ.format(task="arc"), endpoint="http://127.0.0.1:9", home=tmp_path, offline=True
    )

    message = "error dataset allenai/ai2_arc, ARC-Challenge is not in the cache and the hub cannot"
    assert found.stdout.startswith(message), found.stderr
    assert "hint to work offline, name a folder" in found.stdout
