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


@dataclass(eq=False)
class GraderProcess:
    """One child process that grades, started when first needed and again where it was lost.

    A child that is late, takes too much memory or ends is killed with whatever it started, and
    the next answer gets another. It ends with this object and with this process, also where that
    is killed: the child reads the end of its pipe. Ctrl-C in a terminal does not reach it.

    The child is no `multiprocessing.Process`: that would run the caller's main script again,
    and a script without `if __name__ == "__main__"` would start a second run.
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
        self._child: _Child | None = None
        self._start = {"function": str(self.target)}
        if isinstance(self.target, Path):
            source = self.target.read_bytes().decode("latin-1")
            self._start = {"program": os.path.abspath(self.target), "source": source}

    def grade(self, row: Mapping[str, Any], answer: str) -> Grade:
        """What `answer` is worth: correct from reward 1 on, or 0 with a failure.

        TaskError where the grader cannot be started at its first use; later that is a failure.
        """
        request = {"row": row, "answer": answer}
        try:
            reply = self._usable_child().ask(request, self.limit_s, self.memory_gb)
        except _Failed as failed:
            return Grade(reward=0.0, correct=False, failure=str(failed))
        return Grade(reward=reply["reward"], correct=reply["reward"] >= 1)

    def rows(self) -> list[dict[str, Any]] | None:
        """What the program's `rows()` gives, as JSON has it; None where there is none."""
        try:
            child = self._usable_child()
            return child.ask({}, self.rows_limit_s)["rows"] if child.has_rows else None
        except _Failed as failed:
            message = f"rows() of {self.target}: {failed}"
            raise TaskError(message, hint="correct the program") from None

    def close(self) -> None:
        if self._child is not None:
            self._child.end()

    def _usable_child(self) -> "_Child":
        """The child; another where there is none, or it has ended or grown too large."""
        if self._child is not None and self._child.is_usable(self.memory_gb):
            return self._child
        self.close()
        try:
            self._child = _Child(self._start, self.start_limit_s)
        except _Failed as failed:
            if self._child is not None:
                raise _Failed(f"could not be started again: {failed}") from None
            raise TaskError(
                f"{self.target} cannot be started: {failed}",
                hint="correct the program; what it imports must be installed beside esft",
            ) from None
        return self._child


class _Failed(Exception):
    """There is no reply: why not, in words."""


class _Child:
    """A started process and the pipe to it; ended where it is no longer referred to."""

    def __init__(self, start: Mapping[str, Any], limit_s: float) -> None:
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
        self.end = weakref.finalize(self, _end, os.getpid(), self._process, self._pipe)
        self._memory = 0  # bytes that it had before the first answer
        try:
            start = {**start, "path": list(map(str, sys.path))}
            self.has_rows = self.ask(start, limit_s)["has_rows"]
        except BaseException:
            self.end()
            raise

    def is_usable(self, memory_gb: float) -> bool:
        """Whether the process lives and has not grown too large over many answers."""
        return self._process.poll() is None and self._grown_by() <= memory_gb * 1e9

    def ask(
        self, request: Mapping[str, Any], limit_s: float, memory_gb: float | None = None
    ) -> dict[str, Any]:
        """The reply to a request; _Failed, with the process ended, where there is none."""
        until = time.monotonic() + limit_s
        try:
            self._pipe.send_bytes(json.dumps({**request, "limit_s": limit_s}).encode("ascii"))
            while not self._pipe.poll(min(_LOOK_S, max(0.0, until - time.monotonic()))):
                if time.monotonic() >= until:
                    raise _Failed(f"took longer than {limit_s:g} s")
                if memory_gb is not None and self._grown_by() > memory_gb * 1e9:
                    raise _Failed(f"took more than {memory_gb:g} GB of memory")
            reply = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            raise _Failed(self._how_it_ended()) from None
        except BaseException:  # also where Ctrl-C cut a request in two
            self.end()
            raise
        if memory_gb is None:  # what a program holds after its start and its rows is its own affair
            self._memory += self._grown_by()
        if "failure" in reply:
            raise _Failed(reply["failure"])
        return reply

    def _grown_by(self) -> int:
        try:
            return psutil.Process(self._process.pid).memory_info().rss - self._memory
        except psutil.Error:  # it has ended
            return 0

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS_S)
        code = self._process.poll()
        self.end()
        if code is None:
            return "closed the pipe of its replies"
        if code >= 0:
            return f"ended with exit code {code}"
        return f"was ended by signal {-code} ({signal.strsignal(-code)})"


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
