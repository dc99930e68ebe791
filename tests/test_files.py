import errno
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from esft import files
from esft.errors import RunError, TakenError
from esft.files import (
    append_line,
    cache_folder,
    remove_abandoned,
    whole_file,
    whole_folder,
    write_whole,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def run(script, folder):
    return subprocess.run(
        [sys.executable, "-c", "from esft.files import *\n" + script],
        capture_output=True,
        text=True,
        cwd=folder,
    )


def test_lines_are_added_and_whole_files_replaced(tmp_path):
    file = tmp_path / "new" / "file"

    write_whole(file, "one")
    write_whole(file, "zwei ü\n".encode())
    append_line(file, "drei ß")

    assert file.read_text() == "zwei ü\ndrei ß\n"
    assert names(tmp_path / "new") == ["file"]


@pytest.mark.parametrize("write", [append_line, write_whole])
def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch, write):
    append_line(tmp_path / "log", "one")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"log cannot be written: No space left") as caught:
        write(tmp_path / "log", "two")

    assert caught.value.hint == "make room on the disk"
    assert (tmp_path / "log").read_text() == "one\n"
    assert names(tmp_path) == ["log"]


def test_a_line_that_only_fits_in_part_is_taken_back(tmp_path):
    path = tmp_path / "log"
    append_line(path, "one")

    done = run(
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "append_line(Path('log'), 'x' * 1000)",
        tmp_path,
    )

    assert "RunError: log cannot be written: File too large" in done.stderr
    assert path.read_text() == "one\n"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError, match=r"missing.log cannot be written: No such file") as caught:
        append_line(tmp_path / "missing" / "log", "one")

    assert "folder exists" in caught.value.hint


def test_of_two_writers_of_one_file_neither_disturbs_the_other(tmp_path):
    with whole_file(tmp_path / "file") as first:
        with whole_file(tmp_path / "file") as second:
            first.write_text("first")
            second.write_text("second")
        assert (tmp_path / "file").read_text() == "second"

    assert (tmp_path / "file").read_text() == "first"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("lend", [whole_file, whole_folder])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a bug"), OSError(5, "I/O")])
def test_an_error_leaves_neither_a_file_nor_a_folder(tmp_path, lend, error):
    expected = RunError if isinstance(error, OSError) else type(error)

    with pytest.raises(expected, match=r"I/O|bug|^$"), lend(tmp_path / "target"):
        raise error

    assert names(tmp_path) == []


def interrupted(write, at):
    """Write, with Ctrl-C at a line of esft/files.py; return how many lines there were."""
    source = Path(files.__file__)
    lines, seen = source.read_text().splitlines(), 0

    def trace(frame, event, _):
        nonlocal seen
        if frame.f_code.co_filename != str(source):
            return None
        # Python looks for signals after calls, not where a block begins or is left.
        between = lines[frame.f_lineno - 1].strip().startswith(("try:", "with ", "return"))
        if event == "line" and not between:
            seen += 1
            if seen == at:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        write()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return seen


@pytest.mark.parametrize("lend", [whole_file, whole_folder])
def test_ctrl_c_at_any_line_leaves_nothing_half_written(tmp_path, lend):
    def write():
        with lend(tmp_path / "target") as part:
            (part / "a" if lend is whole_folder else part).write_text("whole")

    lines = interrupted(write, at=0)
    shutil.rmtree(tmp_path)
    for at in range(1, lines + 1):
        tmp_path.mkdir()
        interrupted(write, at)
        left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
        assert left in ({"target"} | ({"target/a"} if lend is whole_folder else set()), set()), at
        shutil.rmtree(tmp_path)

    assert lines > 20


def test_everything_is_on_the_disk_before_its_name_appears(tmp_path, monkeypatch):
    events = []
    sync = os.fsync
    target = tmp_path / "target"
    monkeypatch.setattr(os, "fsync", lambda file: events.append(target.exists()) or sync(file))

    with whole_folder(target) as part:
        (part / "a").write_text("a")
        (part / "b").write_text("b")
    in_folder = list(events)
    target = tmp_path / "file"
    with whole_file(target) as part:
        part.write_text("c")

    assert in_folder == [False] * 3 + [True]  # files, their folder; then the parent
    assert events[4:] == [False, True]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_whoever_may_read_the_folder_may_read_what_was_written_for_the_owner_alone(tmp_path):
    with whole_folder(tmp_path / "folder") as part:
        (part / "file").touch(mode=0o600)
    with whole_file(tmp_path / "folder" / "other") as part:
        part.unlink()
        part.touch(mode=0o600)

    mode = (tmp_path / "folder").stat().st_mode & 0o666
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "folder").iterdir()} == {mode}


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_that_is_filled_meanwhile_is_kept_unless_it_is_to_be_replaced(tmp_path, replace):
    target = tmp_path / "target"
    target.mkdir()
    refused = pytest.raises(TakenError, match="exists, expected a new or an empty folder")

    with nullcontext() if replace else refused, whole_folder(target, replace=replace) as part:
        (part / "ours").touch()
        (target / "theirs").touch()

    assert names(target) == ["ours" if replace else "theirs"]
    assert names(tmp_path) == ["target"]


def test_a_file_or_a_link_to_nowhere_makes_way_too(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")

    for name in ("file", "link"):
        with whole_folder(tmp_path / name, replace=True) as part:
            (part / "ours").touch()

        assert names(tmp_path / name) == ["ours"]
    assert names(tmp_path) == ["file", "link"]


def test_what_a_killed_process_left_goes_with_the_next_write_and_nothing_else(tmp_path):
    for name in ("file", ".hidden", ".foreign.1234abcd.partial"):
        (tmp_path / name).mkdir()
    killed = "with whole_file(Path('a')), whole_folder(Path('b')):\n    os._exit(1)"
    for _ in range(2):
        run(killed, tmp_path)
    left = names(tmp_path)

    with whole_folder(tmp_path / "held") as part:
        (part / "half").touch()
        write_whole(tmp_path / "other", "whole")
        remove_abandoned(tmp_path)
        held = names(tmp_path)

    assert len(left) == 3 + 2  # the second process removed what the first one left
    assert len(held) == 3 + 2
    assert names(tmp_path) == [".foreign.1234abcd.partial", ".hidden", "file", "held", "other"]
    assert names(tmp_path / "held") == ["half"]


def two_at_once(script, folder):
    """Run a script in two processes that begin together; return their errors."""
    start = "from esft.files import *\nimport sys\nprint(flush=True)\ninput()\nme = sys.argv[1]\n"
    command = [sys.executable, "-c", start + script]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    both = [subprocess.Popen([*command, me], cwd=folder, text=True, **pipes) for me in "ab"]
    for one in both:
        one.stdout.readline()
    for one in both:
        one.stdin.write("\n")
        one.stdin.flush()
    return [one.communicate()[1] for one in both]


def test_two_processes_write_one_file_at_once_and_neither_fails_nor_mixes(tmp_path):
    errors = two_at_once(
        "for _ in range(100):\n"
        "    write_whole(Path('file'), me * 100_000)\n"
        "    assert len(set(Path('file').read_text())) == 1",
        tmp_path,
    )

    assert errors == ["", ""]
    assert len((tmp_path / "file").read_text()) == 100_000
    assert names(tmp_path) == ["file"]


def test_of_two_processes_that_make_one_folder_one_is_refused_and_the_other_whole(tmp_path):
    errors = two_at_once(
        "for number in range(50):\n"
        "    with suppress(TakenError), whole_folder(Path(str(number))) as part:\n"
        "        [(part / name).write_text(me) for name in 'xyz']",
        tmp_path,
    )

    assert errors == ["", ""]
    assert names(tmp_path) == sorted(map(str, range(50)))
    for folder in tmp_path.iterdir():
        assert len({path.read_text() for path in folder.iterdir()}) == 1
        assert names(folder) == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ({"ESFT_CACHE_DIR": "~/a", "XDG_CACHE_HOME": "/b"}, Path.home() / "a"),
        ({"ESFT_CACHE_DIR": "", "XDG_CACHE_HOME": "/b"}, Path("/b/esft")),
        ({"XDG_CACHE_HOME": ""}, Path.home() / ".cache" / "esft"),
    ],
)
def test_the_cache_lies_where_the_environment_says(settings, folder, monkeypatch):
    for name in ("ESFT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    assert cache_folder() == folder
