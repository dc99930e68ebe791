"""The cache: kept by all that can change a record, whole files alone, emptied only when asked."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import esft
from esft.files import cache_folder
from esft.rollout.cache import Cache, cached_kinds, clear_cache

CODE_HASH = "from esft.rollout.cache import code_hash; print(code_hash())"
BOTH_AT_ONCE = """
import sys
from pathlib import Path
from esft.rollout.cache import Cache

folder, me = Path(sys.argv[1]), sys.argv[2]
records = [{"rows": [[number, letter * 5000] for letter in "ab"]} for number in range(40)]
print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    cache = Cache(folder)
    for number, record in enumerate(records):
        found = cache.get(("rows", number))
        if found not in (None, record):
            sys.exit(f"{me} read other rows under the key of {number}")
        cache.put(("rows", number), record)
"""


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: path.write_text(path.read_text().replace("kept", "lost")),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff\n"),
        lambda path: path.with_name("other.json").replace(path),
        lambda path: path.unlink(),
    ],
)
def test_a_torn_or_foreign_file_is_not_used(tmp_path, damage):
    cache = Cache(tmp_path)
    cache.put("key", {"a": "kept"})
    (path,) = tmp_path.iterdir()
    cache.put("other key", {"a": "kept"})
    next(other for other in tmp_path.iterdir() if other != path).rename(tmp_path / "other.json")
    assert cache.get("key") == {"a": "kept"}

    damage(path)

    assert cache.get("key") is None
    cache.put("key", [1, "é"])
    assert cache.get("key") == [1, "é"]


def test_what_other_code_kept_is_not_used(tmp_path):
    Cache(tmp_path, code="before").put("key", 1)

    assert Cache(tmp_path, code="after").get("key") is None
    assert Cache(tmp_path, code="before").get("key") == 1


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("tasks/graders/text.py", True),
        ("rollout/generate.py", True),
        ("evals/kl.py", True),
        ("cli/show.py", False),
    ],
)
def test_sources_that_make_figures_count_as_code(tmp_path, file, counts):
    package = shutil.copytree(Path(esft.__file__).parent, tmp_path / "esft")

    def code():
        command = [sys.executable, "-c", CODE_HASH]
        # Its working directory comes first on the path.
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    before = code()
    with open(package / file, "a") as source:
        source.write("# changed\n")

    assert (code() != before) == counts


def test_two_processes_that_use_the_cache_at_once_leave_it_whole(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BOTH_AT_ONCE, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"

    # Both begin when both are there.
    errors = []
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        errors.append(process.communicate(timeout=120)[1])

    assert errors == ["", ""]
    cache = Cache(tmp_path)
    assert [cache.get(("rows", number))["rows"][1][0] for number in range(40)] == [*range(40)]
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def kept():
    """Fill the cache of the test: two records of measuring, base weights, and what is not ours."""
    cache = Cache()
    cache.put("a key", [1])
    cache.put("another", [2])
    (cache_folder() / "bases").mkdir(parents=True)
    (cache_folder() / "bases" / f"{'0' * 64}.safetensors").write_bytes(b"weights")
    (cache_folder() / "measured" / f".{'0' * 64}.json.1234abcd.partial").write_bytes(b"half")
    foreign = [cache_folder() / name for name in ("notes.txt", "bases/mine.safetensors")]
    for path in foreign:
        path.write_text("precious")
    return foreign


def test_sizes_are_those_of_what_esft_keeps_and_clearing_removes_that_alone():
    foreign = kept()

    sizes = {kind.kind: (kind.files, kind.nbytes) for kind in cached_kinds()}
    freed = clear_cache()

    assert sizes["bases"] == (1, 7)
    assert sizes["measured"][0] == 3
    assert freed == sum(nbytes for _, nbytes in sizes.values())
    assert [(kind.files, kind.nbytes) for kind in cached_kinds()] == [(0, 0)] * 3
    assert all(path.read_text() == "precious" for path in foreign)
    assert Cache().get("a key") is None


def test_a_cache_that_is_not_there_is_empty():
    assert [kind.files for kind in cached_kinds()] == [0, 0, 0]
    assert clear_cache() == 0
