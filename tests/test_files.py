import errno
import os
import subprocess
import sys

import pytest

from esft import files
from esft.errors import RunError
from esft.files import append_line, write_whole


def test_lines_are_added_one_after_another(tmp_path):
    append_line(tmp_path / "log", "one")
    append_line(tmp_path / "log", "zwei ü")

    assert (tmp_path / "log").read_text() == "one\nzwei ü\n"


@pytest.mark.parametrize("write", [append_line, write_whole])
def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch, write):
    path = tmp_path / "log"
    append_line(path, "one")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError, match=r"log cannot be written: No space left") as caught:
        write(path, "two")

    assert caught.value.hint == "make room on the disk"
    assert path.read_text() == "one\n"
    assert [each.name for each in tmp_path.iterdir()] == ["log"]


def test_a_line_that_only_fits_in_part_is_taken_back(tmp_path):
    path = tmp_path / "log"
    append_line(path, "one")
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from esft.files import append_line\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "append_line(Path(sys.argv[1]), 'x' * 1000)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )

    assert "RunError" in done.stderr
    assert "log cannot be written: File too large" in done.stderr
    assert path.read_text() == "one\n"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError, match=r"missing.log cannot be written: No such file") as caught:
        append_line(tmp_path / "missing" / "log", "one")

    assert "folder exists" in caught.value.hint
