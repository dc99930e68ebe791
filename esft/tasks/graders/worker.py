"""The process in which slow or foreign graders run; `GraderProcess` starts it and talks to it.

It is run as a file, with the descriptor of a pipe, and imports nothing of esft. It speaks JSON.
"""

import faulthandler
import importlib
import json
import numbers
import os
import queue
import reprlib
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

SHOWN = 200  # characters of an error
TRACEBACK = 8  # lines of it
LARGEST = 2.0**127  # of a reward: a journal keeps float32, and squares of it stay finite
GRACE_S = 2.0  # over its limit, a request ends this process, where nobody else did


class Failure(Exception):
    """What a grader did wrong, in words."""


def main() -> None:
    """Answer requests until the parent ends; the first one says what to run."""
    pipe = Connection(int(sys.argv[1]))
    os.set_inheritable(pipe.fileno(), False)  # what the program starts must not hold it open
    os.register_at_fork(after_in_child=pipe.close)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run finishes its step first
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, requests), daemon=True).start()
    nowhere = open(os.devnull, "w")  # noqa: SIM115, for as long as the process lives
    process, functions = os.getpid(), {}
    while True:
        request = requests.get()
        # A regular expression that never ends holds the interpreter, so that `_receive` does not
        # run and cannot see the parent's end. This timer needs no interpreter.
        faulthandler.dump_traceback_later(request["limit_s"] + GRACE_S, exit=True, file=nowhere)
        try:
            if "path" in request:
                functions = _load(request)
                reply = {"has_rows": "rows" in functions}
            elif "answer" in request:
                reply = {"reward": _reward(functions["reward"], request["row"], request["answer"])}
            else:
                reply = {"rows": _rows(functions["rows"])}
        except Failure as failure:
            reply = {"failure": str(failure).encode(errors="backslashreplace").decode()}
        if os.getpid() != process:  # a fork that came back from the program
            os._exit(0)
        faulthandler.cancel_dump_traceback_later()
        pipe.send_bytes(json.dumps(reply).encode("ascii"))


def _receive(pipe: Connection, requests: queue.SimpleQueue) -> None:
    """Take requests; at the pipe's end, the parent's, end this process with all it started."""
    with suppress(EOFError, OSError):
        while True:
            requests.put(json.loads(pipe.recv_bytes()))
    os.killpg(os.getpid(), signal.SIGKILL)


def _load(start: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    """The functions reward and, where there is one, rows."""
    sys.path[:] = start["path"]
    try:
        if "function" in start:
            module, _, function = start["function"].partition(":")
            return {"reward": getattr(importlib.import_module(module), function)()}
        # As Python runs a script, but for its name.
        path, source = start["program"], start["source"].encode("latin-1")
        module = sys.modules["esft_program"] = types.ModuleType("esft_program")
        module.__file__ = path
        sys.path.insert(0, os.path.dirname(path))
        sys.argv = [path]
        program = module.__dict__
        exec(compile(source, path, "exec", dont_inherit=True), program)
    except BaseException as error:  # also of SystemExit: a program may call exit()
        raise Failure(_traceback(error)) from None
    if not callable(program.get("reward")):
        raise Failure("it has no function reward(row, answer)")
    return {name: program[name] for name in ("reward", "rows") if callable(program.get(name))}


def _reward(reward: Callable[..., Any], row: dict[str, Any], answer: str) -> float:
    try:
        value = reward(row, answer)
    except BaseException as error:
        raise Failure(f"raised {_in_a_line(error)}") from None
    # float() would read a text, and takes a complex number of numpy with only a warning.
    complex_ = isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real)
    if not complex_ and not isinstance(value, (str, bytes, bytearray)):
        with suppress(Exception):
            if abs(number := float(value)) <= LARGEST:
                return number
    try:
        shown = reprlib.repr(value)
    except Exception:  # such as an int too long for str
        shown = f"an object of type {type(value).__name__}"
    raise Failure(f"returned {shown}, expected a finite number, at most 1e38 in size")


def _rows(rows: Callable[[], Any]) -> list[dict[str, Any]]:
    given: list[dict[str, Any]] = []
    try:
        for number, row in enumerate(rows(), start=1):
            if not isinstance(row, Mapping):
                raise Failure(f"row {number} is {reprlib.repr(row)}, expected a dict")
            try:
                given.append(json.loads(json.dumps(dict(row))))
            except (TypeError, ValueError, RecursionError) as error:
                raise Failure(
                    f"row {number} cannot be written as JSON: {_in_a_line(error)}; expected "
                    "texts, numbers, booleans, None, and lists and dicts of them"
                ) from None
    except Failure:
        raise
    except BaseException as error:
        raise Failure(_traceback(error)) from None
    return given


def _in_a_line(error: BaseException) -> str:
    line = type(error).__name__
    with suppress(Exception):
        line = f"{line}: {' '.join(str(error).split())}".removesuffix(": ")
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."


def _traceback(error: BaseException) -> str:
    """The last lines of a traceback, from where our own code ends."""
    ours = (__file__, importlib.__file__, "<frozen importlib._bootstrap>")
    at = error.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename in ours:
        at = at.tb_next
    lines = "".join(traceback.format_exception(type(error), error, at)).splitlines()
    return "\n".join(line[:SHOWN] for line in lines[-TRACEBACK:])


if __name__ == "__main__":
    main()
