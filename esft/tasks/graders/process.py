"""A grader in a process of its own, with a time limit: what it does cannot stop a run."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esft.errors import TaskError
from esft.tasks.task import Score

LIMIT_S = 1.0
"""Seconds for an answer."""
START_S = 60.0
"""Seconds for starting: what a program does on import."""
ROWS_S = 600.0
"""Seconds for the rows of a program."""

_WORKER = Path(__file__).with_name("grader_worker.py")
_LAST_WORDS_S = 0.5  # from the end of the socket to the end of the process
_MOST = {"has_rows": 2**16, "reward": 2**16, "rows": 2**31}  # bytes of a reply
_KINDS = {"has_rows": bool, "reward": float, "rows": list}
_GARBAGE = "wrote on the grader's own socket"


class GraderProcess:
    """One child process that grades, started when first needed and again where it was lost.

    Every request has a number and only the reply with that number counts. A child that is late,
    ends or replies with anything else is killed with whatever it started (but for what made a
    session of its own), so nothing that it says later can be taken for another answer's score.
    The child ends with this object and with this process, also where that is killed.

    One thread uses it: on Linux a child ends with the thread that started it.

    Args:
        target: a program with `reward(row, answer)` and, where it likes, `rows()`; or the
            "module:function" of ours that gives such a `reward`. The program is read once: a
            child that is started again runs what the first one ran.
        limit_s: seconds for an answer, from asking to the reply.
        start_limit_s: seconds for starting.
        rows_limit_s: seconds for `rows()`.
    """

    def __init__(
        self,
        target: Path | str,
        *,
        limit_s: float = LIMIT_S,
        start_limit_s: float = START_S,
        rows_limit_s: float = ROWS_S,
    ) -> None:
        self.target = target
        self.limit_s = limit_s
        self.start_limit_s = start_limit_s
        self.rows_limit_s = rows_limit_s
        self._start: dict[str, Any] | None = None
        self._child: _Child | None = None
        self._worked = False

    def grade(self, row: Mapping[str, Any], answer: str) -> Score:
        """What `answer` is worth: correct from reward 1 on, or 0 with a failure.

        Raises:
            TaskError: the grader could not be started, at the first use; later that is a failure
                like any other.
        """
        try:
            reply = self._ask("reward", {"row": row, "answer": answer}, self.limit_s)
        except _Lost as lost:
            return Score(reward=0.0, correct=False, failure=str(lost))
        if "failure" in reply:
            return Score(reward=0.0, correct=False, failure=reply["failure"])
        return Score(reward=reply["reward"], correct=reply["reward"] >= 1)

    def rows(self) -> list[dict[str, Any]] | None:
        """What the program's `rows()` gives; None where it has no such function.

        Raises:
            TaskError: the program could not be started, or `rows()` raises, takes too long or
                gives something else than dicts of what JSON can hold.
        """
        try:
            if not self._running().has_rows:
                return None
            reply = self._ask("rows", {}, self.rows_limit_s)
            failure = reply.get("failure")
        except _Lost as lost:
            failure = str(lost)
        if failure is not None:
            raise TaskError(f"rows() of {self.target}: {failure}", hint="correct the program")
        return reply["rows"]

    def close(self) -> None:
        """End the child; the next request starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _ask(self, wanted: str, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """The reply, with what is wanted or a failure; `_Lost` where there is none."""
        child = self._running()
        try:
            return child.ask(wanted, request, limit_s)
        except BaseException:  # also where Ctrl-C cut a request in two
            self.close()
            raise

    def _running(self) -> "_Child":
        """The child, started where there is none."""
        if self._child is not None and not self._child.is_alive():
            self.close()
        if self._child is None:
            try:
                self._child = self._started()
            except _Lost as lost:
                if self._worked:
                    raise _Lost(f"could not be started again: {lost}") from None
                raise self._unusable(str(lost)) from None
            self._worked = True
        return self._child

    def _started(self) -> "_Child":
        if self._start is None:
            self._start = self._how_to_start()
        child = _Child()
        try:
            request = {**self._start, "path": list(map(str, sys.path))}
            reply = child.ask("has_rows", request, self.start_limit_s)
            if "failure" in reply:
                raise _Lost(reply["failure"])
        except BaseException:
            child.end()
            raise
        child.has_rows = reply["has_rows"]
        return child

    def _how_to_start(self) -> dict[str, Any]:
        if isinstance(self.target, str):
            return {"function": self.target}
        try:
            source = self.target.read_bytes()
        except OSError as error:
            raise _Lost(f"cannot be read: {error.strerror or error}") from None
        return {"program": os.path.abspath(self.target), "source": source.decode("latin-1")}

    def _unusable(self, why: str) -> TaskError:
        if isinstance(self.target, str):
            return TaskError(f"the grader {self.target} cannot be started: {why}")
        apart = "\n" if "\n" in why else " "
        return TaskError(
            f"{self.target} cannot be used as a task:{apart}{why}",
            hint="correct the program; what it imports must be installed beside esft",
        )


class _Lost(Exception):
    """There is no reply: why not, in words."""


class _Child:
    """A started process, and the socket to it; killed where it is no longer referred to."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: a user's folder with a numbers.py in it must not take the place of Python's own.
            command = [sys.executable, "-P", str(_WORKER), str(theirs.fileno()), str(os.getpid())]
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what a program prints is no result of esft
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise _Lost(f"no process could be started: {error.strerror or error}") from None
        self._channel = ours
        self._number = 0
        self._read = b""
        self.has_rows = False
        self.end = weakref.finalize(self, _kill, os.getpid(), self._process, ours)

    def is_alive(self) -> bool:
        # WNOWAIT leaves the process to be waited for: until then its group has no other owner.
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, options) is None

    def ask(self, wanted: str, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """The reply to a request, which has `wanted` or "failure" in it.

        Raises:
            _Lost: the child is late, has ended, or says something else.
        """
        self._number += 1
        line = json.dumps({**request, "number": self._number}).encode("ascii") + b"\n"
        deadline = time.monotonic() + limit_s
        try:
            self._channel.settimeout(limit_s)
            self._channel.sendall(line)
            while True:
                reply = _as_reply(self._line(deadline, _MOST[wanted]), wanted)
                if reply["number"] == self._number:
                    return reply
        except TimeoutError:
            raise _Lost(f"took longer than {limit_s:g} s") from None
        except OSError:
            raise _Lost(self._how_it_ended()) from None

    def _line(self, deadline: float, most: int) -> bytes:
        parts = [self._read]
        size = len(self._read)
        while b"\n" not in parts[-1]:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._channel.settimeout(left)
            part = self._channel.recv(2**16)
            if not part:
                raise ConnectionResetError
            parts.append(part)
            size += len(part)
            if size > most:
                raise _Lost(_GARBAGE)
        line, _, self._read = b"".join(parts).partition(b"\n")
        return line

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            return "closed the grader's own socket"
        if code >= 0:
            return f"ended with exit code {code}"
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
        return f"was ended by signal {-code}"


def _kill(owner: int, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
    """End a child and all of its group; does nothing in a fork of the process that owns it."""
    if os.getpid() != owner:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    channel.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)


def _as_reply(line: bytes, wanted: str) -> dict[str, Any]:
    """The reply in a line; `_Lost` where the line is none of ours."""
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        reply = None
    if isinstance(reply, dict) and isinstance(reply.get("number"), int):
        if isinstance(reply.get("failure"), str):
            return reply
        value = reply.get(wanted)
        if isinstance(value, _KINDS[wanted]) and (wanted != "reward" or math.isfinite(value)):
            return reply
    raise _Lost(_GARBAGE)
