import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest

from esft.errors import TaskError
from esft.tasks.graders.process import GraderProcess

# An answer says what the program does with it, but for rows that ask for its length.
PROGRAM = r"""
import fractions, math, os, re, signal, subprocess, sys, time

def leave(): sys.exit(3)
def hoard(parts=[]):
    while True: parts.append(b"x" * 2**20)
def chatter():
    print("to stdout")
    return os.write(1, b'{"reward": 1.0}')
def long(): raise ValueError("x" * 100_000 + "\nline")
def start(file, *apart):
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    started = [subprocess.Popen(command, start_new_session=each).pid for each in apart]
    with open(file, "w") as pids: print(*started, file=pids)

def reward(row, answer):
    return len(answer) if row.get("length") else eval(answer)
"""
BACKTRACK = 're.match("(a+)+$", "a" * 60 + "b")'  # holds the interpreter and never ends


def program(folder, source, name="my.py"):
    path = folder / name
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def grader(tmp_path_factory):
    path = program(tmp_path_factory.mktemp("own"), PROGRAM)
    # Long enough for a loaded machine to answer in, short enough to wait for a few times.
    process = GraderProcess(path, limit_s=1.5, memory_gb=0.1)
    path.write_text("broken(")  # the program is read once, here
    yield process
    process.close()


def pid_of(grader):
    return int(grader.grade({}, "os.getpid()").reward)


def has_ended(pid, within_s=10.0):
    """Whether the process ends in time, or is a zombie that its new parent has yet to see."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ("time.sleep(60)", r"took longer than 1\.5 s"),
        (BACKTRACK, r"took longer than 1\.5 s"),
        ("hoard()", r"took more than 0\.1 GB of memory"),
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
        ("leave()", "raised SystemExit: 3"),
        ("long()", r"raised ValueError: x{188}\.\.\."),
        ("os._exit(3)", "ended with exit code 3"),
        ("os.kill(os.getpid(), 9)", r"was ended by signal 9 \(Killed.*\)"),
        ("'0.5'", "returned '0.5', expected a finite number, at most 1e38 in size"),
        ("math.nan", "returned nan, expected a finite number, at most 1e38 in size"),
        ("-1e200", r"returned -1e\+200, expected a finite number, at most 1e38 in size"),
        ("1 + 0j", r"returned \(1\+0j\), expected a finite number, at most 1e38 in size"),
        (
            "10 ** 10_000",
            "returned an object of type int, expected a finite number, at most 1e38 in size",
        ),
    ],
)
def test_an_answer_that_gets_no_reward_is_worth_0_and_the_next_one_is_graded(
    grader, answer, failure
):
    lost = grader.grade({}, answer)
    after = grader.grade({}, "0.5")

    assert (lost.reward, lost.correct) == (0.0, False)
    assert lost.failure is not None
    assert re.fullmatch(failure, lost.failure), lost.failure
    assert (after.reward, after.correct, after.failure) == (0.5, False, None)


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("0.99", 0.99),
        ("-1.5", -1.5),
        ("True", 1.0),
        ("fractions.Fraction(1, 4)", 0.25),
        ("chatter()", 15.0),
        ("os.fork() >= 0", 1.0),
        ("len(row.pop('prompt')) * len(row)", 0.0),
        ("len({'esft', 'psutil', 'torch', 'transformers'} & set(sys.modules))", 0.0),
    ],
)
def test_a_reward_is_what_the_program_returns_and_correct_from_1_on(grader, answer, reward):
    grade = grader.grade({"prompt": "Q?"}, answer)

    assert (grade.reward, grade.correct, grade.failure) == (reward, reward >= 1, None)


@pytest.mark.parametrize("answer", ["", "\ud800\U0001f600\u2028\x00\n\r", "x" * 10**6], ids=len)
def test_any_text_reaches_the_program_as_it_is(grader, answer):
    assert grader.grade({"length": True}, answer).reward == len(answer)


def test_one_process_grades_all_answers_that_are_no_trouble(grader):
    first = pid_of(grader)

    pids = {pid_of(grader) for answer in ("1 / 0", "None", "os.fork()") if grader.grade({}, answer)}

    assert pids == {first}
    assert all(has_ended(fork.pid) for fork in psutil.Process(first).children())


@pytest.mark.parametrize(
    ("apart", "then"), [("False, True", "time.sleep(60)"), ("False", "os._exit(3)")]
)
def test_what_a_program_started_ends_with_it(grader, tmp_path, apart, then):
    file = tmp_path / "pids"

    grader.grade({}, f"start({str(file)!r}, {apart}) or {then}")

    assert all(has_ended(int(pid)) for pid in file.read_text().split())


def test_the_process_ends_with_the_object(tmp_path):
    process = GraderProcess(program(tmp_path, PROGRAM))
    child = pid_of(process)

    del process
    gc.collect()

    assert has_ended(child)


PARENT = """
    import os, sys, threading, time
    sys.path[:] = {path!r}
    from pathlib import Path
    from esft.tasks.graders.process import GraderProcess
    process = GraderProcess(Path({program!r}), limit_s={limit_s})
    print(int(process.grade({{}}, "os.getpid()").reward), flush=True)
    threading.Timer(0.5, os.kill, (os.getpid(), 9)).start()
    process.grade({{}}, {answer!r})
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("answer", "limit_s"), [("time.sleep(60)", 60), (BACKTRACK, 1)], ids=["busy", "deaf"]
)
def test_the_process_ends_with_a_parent_that_is_killed(tmp_path, answer, limit_s):
    path = str(program(tmp_path, PROGRAM))
    source = PARENT.format(path=sys.path, program=path, answer=answer, limit_s=limit_s)
    # A script without `if __name__ == "__main__"`: nothing of it may run again in the child.
    script = program(tmp_path, source, "parent.py")

    parent = subprocess.run([sys.executable, script], stdout=subprocess.PIPE)

    assert parent.returncode == -signal.SIGKILL
    assert has_ended(int(parent.stdout))


def test_ctrl_c_in_the_terminal_does_not_reach_the_process_and_a_lost_one_costs_no_answer(grader):
    child = pid_of(grader)

    os.kill(child, signal.SIGINT)

    assert os.getsid(child) == child
    assert pid_of(grader) == child
    os.kill(child, signal.SIGKILL)
    time.sleep(0.1)
    assert grader.grade({}, "0.5").reward == 0.5


def test_ctrl_c_within_an_answer_leaves_nothing_for_the_next(tmp_path):
    process = GraderProcess(program(tmp_path, PROGRAM), limit_s=60)
    process.grade({}, "0.5")
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        process.grade({}, "time.sleep(60)")

    assert process.grade({}, "0.5").reward == 0.5
    process.close()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def reward(row, answer)\n", r"my\.py\", line 1(.|\n)*SyntaxError: expected ':'"),
        ("def f():\n    1 / 0\nf()\n", r"line 3, in <module>(.|\n)*ZeroDivisionError"),
        ("import os\nos._exit(7)\n", "ended with exit code 7"),
        ("reward = 1.0\n", r"it has no function reward\(row, answer\)"),
        ("import time\ntime.sleep(60)\n", r"took longer than 0\.5 s"),
    ],
)
def test_a_program_that_fails_on_import_is_refused_with_the_end_of_its_traceback(
    tmp_path, source, message
):
    path = program(tmp_path, source)
    process = GraderProcess(path, start_limit_s=0.5 if "sleep" in source else 60.0)

    with pytest.raises(TaskError, match=message) as caught:
        process.grade({}, "0.5")

    assert str(caught.value).startswith(f"{path} cannot be started: ")
    assert "worker.py" not in str(caught.value)
    assert caught.value.hint.startswith("correct the program")


def test_a_start_that_fails_later_is_a_failure_of_that_answer(tmp_path):
    source = f"""
        import os
        os.mkdir({str(tmp_path / "once")!r})
        def reward(row, answer): os._exit(3)
    """
    process = GraderProcess(program(tmp_path, source))
    process.grade({}, "os._exit(3)")

    grade = process.grade({}, "0.5")

    assert grade.reward == 0.0
    assert grade.failure.startswith("could not be started again: ")
    assert "FileExistsError" in grade.failure


def test_a_program_finds_its_neighbours_and_is_not_taken_for_a_module_of_python(tmp_path):
    program(tmp_path, "WORTH = 0.75\n", "neighbour.py")
    source = """
        import numbers, neighbour
        assert hasattr(numbers, "Real")
        def reward(row, answer): return neighbour.WORTH
    """

    assert GraderProcess(program(tmp_path, source, "numbers.py")).grade({}, "").reward == 0.75


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ("rows = 3\n", None),
        (
            "def rows():\n    print('{}')\n    yield {'prompt': 'é\\ud800', 'n': (1, 2.5, None)}\n",
            [{"prompt": "é\ud800", "n": [1, 2.5, None]}],
        ),
    ],
)
def test_rows_are_what_the_program_gives_as_json_has_it(tmp_path, source, rows):
    path = program(tmp_path, source + "def reward(row, answer): return 1\n")

    assert GraderProcess(path).rows() == rows


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def rows():\n    yield {}\n    1 / 0", r"line 3, in rows(.|\n)*ZeroDivisionError"),
        ("def rows(): return [{'a': 1}, [2]]", r"row 2 is \[2\], expected a dict"),
        ("def rows(): return [{'a': {1}}]", "row 1 cannot be written as JSON: TypeError: Object"),
        ("import os\ndef rows(): os._exit(4)", "ended with exit code 4"),
        ("import time\ndef rows(): time.sleep(60)", r"took longer than 0\.5 s"),
    ],
)
def test_rows_that_fail_are_refused_with_the_reason(tmp_path, source, message):
    path = program(tmp_path, source + "\ndef reward(row, answer): return 1\n")
    process = GraderProcess(path, rows_limit_s=0.5 if "sleep" in source else 60.0)

    with pytest.raises(TaskError, match=message) as caught:
        process.rows()

    assert str(caught.value).startswith(f"rows() of {path}: ")


def test_numbers_of_numpy_are_rewards_unless_they_are_complex(tmp_path):
    path = program(tmp_path, "import numpy as np\ndef reward(row, answer): return eval(answer)\n")
    process = GraderProcess(path, limit_s=10)

    assert process.grade({}, "np.float32(1)").reward == 1.0
    assert "expected a finite number" in process.grade({}, "np.complex64(1)").failure
