"""The process in which slow or foreign graders run; `GraderProcess` starts it and talks to it.

It is run as a file, with the descriptor of a socket and the id of its parent, and so imports
nothing of esft. Requests and replies are JSON, one a line and in ASCII, with a number each.
"""

import contextlib
import fcntl
import importlib
import json
import math
import numbers
import os
import reprlib
import signal
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

BEYOND = 100
"""The socket is moved to a descriptor from here on: foreign code means the low ones."""
SHOWN = 200
"""Characters of an error that a failure shows."""
TRACEBACK = 8
"""Lines of a traceback that a failure shows."""

Reply = dict[str, Any]


class Failure(Exception):
    """What a grader did wrong, in words."""

    @property
    def text(self) -> str:
        """The words as text that can be printed: no half of a surrogate pair."""
        return str(self).encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class Grader:
    """What is called for an answer, and for the rows where the program has them."""

    reward: Callable[[dict[str, Any], str], object]
    rows: Callable[[], object] | None = None


def main() -> None:
    """Answer requests until the parent ends."""
    descriptor, parent = map(int, sys.argv[1:])
    channel = _move(descriptor)
    _tie_to(parent)
    requests = open(channel, "rb", closefd=False)  # noqa: SIM115, for as long as it lives
    start = json.loads(requests.readline())
    try:
        grader = _load(start)
    except Failure as failure:
        _send(channel, {"number": start["number"], "failure": failure.text})
        return
    _send(channel, {"number": start["number"], "has_rows": grader.rows is not None})
    for line in requests:
        request = json.loads(line)
        try:
            reply = _answer(grader, request)
        except Failure as failure:
            reply = {"failure": failure.text}
        _send(channel, {"number": request["number"], **reply})
    os.killpg(0, signal.SIGKILL)  # also what the program has started


def _move(descriptor: int) -> int:
    """The descriptor out of the way of foreign code, and closed in whatever that starts."""
    channel = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, BEYOND)
    os.close(descriptor)

    def close() -> None:
        with contextlib.suppress(OSError):
            os.close(channel)

    os.register_at_fork(after_in_child=close)
    return channel


def _tie_to(parent: int) -> None:
    """Die with the parent, but not of its Ctrl-C, and before it where memory runs out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before that
            os._exit(1)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as adjust:
            adjust.write("1000")


def _load(start: Mapping[str, Any]) -> Grader:
    sys.path[:] = start["path"]
    try:
        if "program" in start:
            return _load_program(start["program"], start["source"].encode("latin-1"))
        module, _, function = start["function"].partition(":")
        return Grader(getattr(importlib.import_module(module), function)())
    except Failure:
        raise
    except BaseException as error:  # also of SystemExit: a program may call exit()
        raise Failure(_traceback(error)) from None


def _load_program(path: str, source: bytes) -> Grader:
    """The functions of a program, run as Python runs a script, but for its name."""
    module = types.ModuleType("esft_program")
    module.__file__ = path
    sys.modules[module.__name__] = module
    sys.path.insert(0, os.path.dirname(path))
    sys.argv = [path]
    exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
    reward, rows = getattr(module, "reward", None), getattr(module, "rows", None)
    if not callable(reward):
        raise Failure("it has no function reward(row, answer)")
    return Grader(reward, rows if callable(rows) else None)


def _answer(grader: Grader, request: Mapping[str, Any]) -> Reply:
    if "answer" in request:
        return {"reward": _reward(grader, request["row"], request["answer"])}
    return {"rows": _rows(grader)}


def _reward(grader: Grader, row: dict[str, Any], answer: str) -> float:
    try:
        value = grader.reward(row, answer)
    except BaseException as error:
        raise Failure(f"raised {_in_a_line(error)}") from None
    try:
        # numpy makes a float of a complex number, with no more than a warning.
        real = isinstance(value, numbers.Real) or not isinstance(value, (numbers.Complex, str))
        number = float(value) if real and not isinstance(value, (bytes, bytearray)) else math.nan
    except BaseException:
        number = math.nan
    if not math.isfinite(number):
        raise Failure(f"returned {_shown(value)}, expected a finite number")
    return number


def _rows(grader: Grader) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    try:
        for row in grader.rows():
            if not isinstance(row, Mapping):
                raise Failure(f"row {len(rows) + 1} is {_shown(row)}, expected a dict")
            rows.append(_as_json(len(rows) + 1, row))
    except Failure:
        raise
    except BaseException as error:
        raise Failure(_traceback(error)) from None
    return rows


def _as_json(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(row)))
    except (TypeError, ValueError, RecursionError) as error:
        raise Failure(
            f"row {number} cannot be written as JSON: {_in_a_line(error)}; expected texts, "
            "numbers, booleans, None, and lists and dicts of them"
        ) from None


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)
    except BaseException:  # such as an int too long for str
        return f"an object of type {type(value).__name__}"


def _in_a_line(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except BaseException:
        text = ""
    name = type(error).__name__
    line = f"{name}: {text}" if text else name
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."


def _traceback(error: BaseException) -> str:
    """The last lines of a traceback, from where our own code ends."""
    ours = (__file__, importlib.__file__, "<frozen importlib._bootstrap>")
    at = error.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename in ours:
        at = at.tb_next
    try:
        lines = "".join(traceback.format_exception(type(error), error, at)).splitlines()
    except BaseException:
        lines = [_in_a_line(error)]
    return "\n".join(line[:SHOWN] for line in lines[-TRACEBACK:])


def _send(channel: int, reply: Reply) -> None:
    data = memoryview(json.dumps(reply).encode("ascii") + b"\n")
    while data:
        data = data[os.write(channel, data) :]


if __name__ == "__main__":
    main()
