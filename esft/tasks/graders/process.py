"""A grader in a process of its own, with limits of time and memory: it cannot stop a run."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from esft.errors import TaskError
from esft.tasks.task import Grade

_WORKER = Path(__file__).with_name("worker.py")
_LOOK_S = 0.05  # between two looks at the memory of an answer that takes its time
_LAST_WORDS_S = 0.5  # from the end of the pipe to the end of the process


class _Failed(Exception):
    """There is no reply: why not, in words."""


@dataclass(eq=False)
class GraderProcess:
    """One child process that grades, started when first needed and again where it was lost.

    A child that is late, takes too much memory or ends is killed with whatever it started. It ends
    with this object and with this process, also where that is killed: it reads the end of its
    pipe. It is no `multiprocessing.Process`, which would run the caller's main script again.
    """

    target: Path | str
    """A program with `reward(row, answer)` and, where it likes, `rows()`, which is read here, once;
    or the "module:function" of ours that gives such a `reward`."""
    limit_s: float = 1.0
    """Seconds for an answer."""
    memory_gb: float = 1.0
    """What answers may add to the memory that the child has without them."""
    start_limit_s: float = 60.0
    rows_limit_s: float = 600.0

    def __post_init__(self) -> None:
        self._started = False
        self.close = lambda: None  # ends the child, and all it started
        self._source = {"function": str(self.target)}
        if isinstance(self.target, Path):
            source = self.target.read_bytes().decode("latin-1")
            self._source = {"program": os.path.abspath(self.target), "source": source}

    def grade(self, row: Mapping[str, Any], answer: str) -> Grade:
        """What `answer` is worth: correct from reward 1 on, or 0 with a failure; a TaskError where
        the first start fails."""
        try:
            self._require_child()
            reply = self._ask({"row": row, "answer": answer}, self.limit_s, answer=True)
        except _Failed as failed:
            return Grade(reward=0.0, correct=False, failure=str(failed))
        return Grade(reward=reply["reward"], correct=reply["reward"] >= 1)

    def rows(self) -> list[dict[str, Any]] | None:
        """What the program's `rows()` gives, as JSON has it; None where there is none."""
        try:
            self._require_child()
            return self._ask({}, self.rows_limit_s)["rows"] if self._has_rows else None
        except _Failed as failed:
            message = f"rows() of {self.target}: {failed}"
            raise TaskError(message, hint="correct the program") from None

    def _require_child(self) -> None:
        """Start a child where there is none, or it has ended or grown too large."""
        if self._started and self._process.poll() is None and not self._is_too_large():
            return
        self.close()
        try:
            self._start()
            self._started = True
        except _Failed as failed:
            if self._started:
                raise _Failed(f"could not be started again: {failed}") from None
            raise TaskError(
                f"{self.target} cannot be started: {failed}",
                hint="correct the program; what it imports must be installed beside esft",
            ) from None

    def _start(self) -> None:
        if sys.platform == "win32":
            raise TaskError(
                f"{self.target} grades in a process of its own, with a pipe that Windows does not "
                "have; expected Linux or macOS",
                hint="run esft in WSL, or take a task or a grader that needs none",
            )
        self._pipe, theirs = multiprocessing.Pipe()
        # -P: a user's folder with a numbers.py in it must not take the place of Python's own.
        # -u: what a program prints must not wait for an end that may be a kill.
        command = [sys.executable, "-uP", str(_WORKER), str(theirs.fileno())]
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what a program prints is no result of esft
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # out of reach of the terminal's Ctrl-C
                )
            except OSError as error:
                raise _Failed(f"no process: {error.strerror or error}") from None
        self.close = weakref.finalize(self, _end, os.getpid(), self._process, self._pipe)
        try:
            start = {**self._source, "path": list(map(str, sys.path))}
            self._has_rows = self._ask(start, self.start_limit_s)["has_rows"]
        except BaseException:
            self.close()
            raise

    def _ask(
        self, request: Mapping[str, Any], limit_s: float, *, answer: bool = False
    ) -> dict[str, Any]:
        """The reply to a request; _Failed, with the process ended, where there is none."""
        until = time.monotonic() + limit_s
        try:
            self._pipe.send_bytes(json.dumps({**request, "limit_s": limit_s}).encode("ascii"))
            while not self._pipe.poll(min(_LOOK_S, max(0.0, until - time.monotonic()))):
                if time.monotonic() >= until:
                    raise _Failed(f"took longer than {limit_s:g} s")
                if answer and self._is_too_large():
                    raise _Failed(f"took more than {self.memory_gb:g} GB of memory")
            reply = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LAST_WORDS_S)
            self.close()
            code = self._process.returncode or 0
            how = f"ended with exit code {code}"
            if code < 0:
                how = f"was ended by signal {-code} ({signal.strsignal(-code)})"
            raise _Failed(how) from None
        except BaseException:  # also where Ctrl-C cut a request in two
            self.close()
            raise
        if not answer:  # what a program holds after its start and its rows is its own affair
            self._memory = self._resident()
        if "failure" in reply:
            raise _Failed(reply["failure"])
        return reply

    def _is_too_large(self) -> bool:
        return self._resident() - self._memory > self.memory_gb * 1e9

    def _resident(self) -> int:
        try:
            return psutil.Process(self._process.pid).memory_info().rss
        except psutil.Error:  # it has ended
            return 0


def _end(owner: int, process: "subprocess.Popen[bytes]", pipe: Connection) -> None:
    """End a child and all it started; does nothing in a fork of the process that owns it."""
    if os.getpid() != owner:
        return
    started: list[psutil.Process] = []
    if process.poll() is None:
        with contextlib.suppress(psutil.Error):
            started = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(OSError):
        # Also what has lost its parent: no process gets this number while one of the group lives.
        os.killpg(process.pid, signal.SIGKILL)
    for descendant in started:
        with contextlib.suppress(psutil.Error):
            descendant.kill()
    pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
