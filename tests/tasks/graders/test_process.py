import gc
import json
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

# What an answer says is what the program does with it; any other answer is worth its length / 10.
PROGRAM = r"""
import math, os, re, signal, subprocess, sys, time
from fractions import Fraction

def sleep(row): time.sleep(60)
def backtrack(row): re.match("(a+)+$", "a" * 60 + "b")  # holds the interpreter
def divide(row): return 1 / 0
def leave(row): sys.exit(3)
def long(row): raise ValueError("x" * 100_000 + "\nline")
def deep(row): return deep(row)
def end(row): os._exit(3)
def shot(row): os.kill(os.getpid(), signal.SIGKILL)
def hoard(row): parts = []; [parts.append(b"x" * 2**20) for _ in range(10_000)]
def chatter(row):
    print("to stdout")
    os.write(1, b'{"reward": 1.0}\n')
    return 0.5
def fork(row):
    os.fork()
    return 0.5
def who(row): return float(os.getpid())
def heirs(row):
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    apart = subprocess.Popen(command, start_new_session=True)
    with open(row["pids"], "w") as file:
        file.write(f"{subprocess.Popen(command).pid} {apart.pid}")
    time.sleep(60)
def change(row):
    row["changed"] = True
    return 0.5
def look(row): return float("changed" in row)
def text(row): return "0.5"
def none(row): return None
def nan(row): return math.nan
def complexity(row): return 1 + 0j
def listing(row): return [1.0]
def huge(row): return 10 ** 400
def huger(row): return 10 ** 10_000
def less(row): return -1.5
def yes(row): return True
def fraction(row): return Fraction(1, 4)

def reward(row, answer):
    act = globals().get(answer)
    return len(answer) / 10 if act is None else act(row)
"""


def program(folder, source, name="my.py"):
    path = folder / name
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def grader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    # Long enough for a loaded machine to answer in, short enough to wait for a few times.
    process = GraderProcess(program(folder, PROGRAM), limit_s=1.5, memory_gb=0.1)
    yield process
    process.close()


def pid_of(grader):
    return int(grader.grade({}, "who").reward)


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
        ("sleep", r"took longer than 1\.5 s"),
        ("backtrack", r"took longer than 1\.5 s"),
        ("hoard", r"took more than 0\.1 GB of memory"),
        ("divide", "raised ZeroDivisionError: division by zero"),
        ("leave", "raised SystemExit: 3"),
        ("long", r"raised ValueError: x{188}\.\.\."),
        ("deep", "raised RecursionError: maximum recursion depth exceeded.*"),
        ("end", "ended with exit code 3"),
        ("shot", r"was ended by signal 9 \(Killed.*\)"),
        ("text", "returned '0.5', expected a finite number"),
        ("none", "returned None, expected a finite number"),
        ("nan", "returned nan, expected a finite number"),
        ("complexity", r"returned \(1\+0j\), expected a finite number"),
        ("listing", r"returned \[1\.0\], expected a finite number"),
        ("huge", r"returned 10+\.\.\.0+, expected a finite number"),
        ("huger", "returned an object of type int, expected a finite number"),
    ],
)
def test_an_answer_that_gets_no_reward_is_worth_0_and_the_next_one_is_graded(
    grader, answer, failure
):
    lost = grader.grade({}, answer)
    after = grader.grade({}, "fine")

    assert (lost.reward, lost.correct) == (0.0, False)
    assert lost.failure is not None
    assert re.fullmatch(failure, lost.failure), lost.failure
    assert (after.reward, after.correct, after.failure) == (0.4, False, None)


@pytest.mark.parametrize(
    ("answer", "reward", "correct"),
    [
        ("x" * 9, 0.9, False),
        ("x" * 10, 1.0, True),
        ("x" * 25, 2.5, True),
        ("", 0.0, False),
        ("chatter", 0.5, False),
        ("fork", 0.5, False),
        ("yes", 1.0, True),
        ("less", -1.5, False),
        ("fraction", 0.25, False),
        ("\ud800", 0.1, False),
        ("\U0001f600\u2028\x00\n\r", 0.5, False),
        ("x" * 1_000_000, 100_000.0, True),
    ],
)
def test_a_reward_is_what_the_program_returns_and_correct_from_1_on(
    grader, answer, reward, correct
):
    score = grader.grade({}, answer)

    assert (score.reward, score.correct, score.failure) == (reward, correct, None)


def test_what_a_program_does_to_a_row_is_gone_with_the_next_answer(grader):
    row = {"prompt": "Q?"}

    assert grader.grade(row, "change").reward == 0.5
    assert grader.grade(row, "look").reward == 0.0
    assert row == {"prompt": "Q?"}


def test_one_process_grades_all_answers_that_are_no_trouble(grader):
    first = pid_of(grader)

    pids = {pid_of(grader) for answer in ("divide", "none", "fork") if grader.grade({}, answer)}

    assert pids == {first}


def test_the_process_starts_in_less_than_a_second_without_torch_or_esft(tmp_path):
    source = """
        import sys
        LOADED = {"torch", "transformers", "esft"} & set(sys.modules)
        def reward(row, answer): return len(LOADED)
    """
    process = GraderProcess(program(tmp_path, source), limit_s=10)
    process.grade({}, "")  # its bytecode may still have to be written
    process.close()

    began = time.monotonic()
    score = process.grade({}, "")

    assert score.reward == 0
    assert time.monotonic() - began < 1
    process.close()


def test_what_a_program_prints_goes_to_stderr(tmp_path, capfd):
    process = GraderProcess(program(tmp_path, PROGRAM))
    capfd.readouterr()

    process.grade({}, "chatter")
    process.close()

    out, err = capfd.readouterr()
    assert out == ""
    assert "to stdout" in err


def test_what_a_program_started_ends_with_it(grader, tmp_path):
    file = tmp_path / "pids"

    grader.grade({"pids": str(file)}, "heirs")

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
    print(int(process.grade({{}}, "who").reward), flush=True)
    threading.Timer(0.5, os.kill, (os.getpid(), 9)).start()
    process.grade({{}}, {answer!r})
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("answer", "limit_s"), [("fine", 60), ("sleep", 60), ("backtrack", 1)], ids=str
)
def test_the_process_ends_with_a_parent_that_is_killed(tmp_path, answer, limit_s):
    path = str(program(tmp_path, PROGRAM))
    source = PARENT.format(path=sys.path, program=path, answer=answer, limit_s=limit_s)
    # A script without `if __name__ == "__main__"`: nothing of it may run again in the child.
    script = program(tmp_path, source, "parent.py")

    parent = subprocess.run([sys.executable, script], stdout=subprocess.PIPE)

    assert parent.returncode == -signal.SIGKILL
    assert has_ended(int(parent.stdout))


def test_a_process_lost_between_two_answers_costs_none(grader):
    os.kill(pid_of(grader), signal.SIGKILL)
    time.sleep(0.1)

    assert grader.grade({}, "fine").reward == 0.4


def test_ctrl_c_in_the_terminal_does_not_reach_the_process(grader):
    child = pid_of(grader)

    os.kill(child, signal.SIGINT)

    assert os.getsid(child) == child
    assert pid_of(grader) == child


def test_ctrl_c_within_an_answer_leaves_nothing_for_the_next(tmp_path):
    process = GraderProcess(program(tmp_path, PROGRAM), limit_s=60)
    process.grade({}, "fine")
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        process.grade({}, "sleep")

    assert process.grade({}, "fine").reward == 0.4
    process.close()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def reward(row, answer)\n", r"my\.py\", line 1(.|\n)*SyntaxError: expected ':'"),
        ("import no_such_module_at_all\n", "No module named 'no_such_module_at_all'"),
        ("def f():\n    1 / 0\nf()\n", r"line 3, in <module>(.|\n)*ZeroDivisionError"),
        ("import sys\nsys.exit('no')\n", "SystemExit: no"),
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
        process.grade({}, "fine")

    assert str(caught.value).startswith(f"{path} cannot be started: ")
    assert "worker.py" not in str(caught.value)
    assert caught.value.hint.startswith("correct the program")


def test_a_program_changed_meanwhile_grades_as_it_did(tmp_path):
    path = program(tmp_path, PROGRAM)
    process = GraderProcess(path)
    process.grade({}, "end")
    path.write_text("broken(")

    assert process.grade({}, "fine").reward == 0.4
    process.close()


def test_a_start_that_fails_later_is_a_failure_of_that_answer(tmp_path):
    source = f"""
        import os
        os.mkdir({str(tmp_path / "once")!r})
        def reward(row, answer): os._exit(3)
    """
    process = GraderProcess(program(tmp_path, source))
    process.grade({}, "end")

    for _ in range(2):
        score = process.grade({}, "fine")

        assert score.reward == 0.0
        assert score.failure.startswith("could not be started again: ")
        assert "FileExistsError" in score.failure


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
        ("def rows(): return []\n", []),
        (
            "def rows():\n    print('{}')\n    yield {'prompt': 'é\\ud800', 'n': (1, 2.5, None)}\n",
            [{"prompt": "é\ud800", "n": [1, 2.5, None]}],
        ),
        (
            "def rows(): return [{'prompt': 'x' * 100} for _ in range(10_000)]\n",
            [{"prompt": "x" * 100}] * 10_000,
        ),
    ],
)
def test_rows_are_what_the_program_gives_as_json_has_it(tmp_path, source, rows):
    path = program(tmp_path, source + "def reward(row, answer): return 1\n")

    assert GraderProcess(path).rows() == rows


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def rows(): return 3", "'int' object is not iterable"),
        (
            "def rows():\n    yield {}\n    raise KeyError('x')",
            r"line 3, in rows(.|\n)*KeyError: 'x'",
        ),
        ("def rows(): return [{'a': 1}, [2]]", r"row 2 is \[2\], expected a dict"),
        ("def rows(): return [{'a': {1}}]", "row 1 cannot be written as JSON: TypeError: Object"),
        ("def rows(): return [{'a': 10 ** 5000}]", "row 1 cannot be written as JSON: ValueError"),
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
    source = """
        import numpy
        KINDS = {"float32": numpy.float32(0.5), "bool": numpy.bool_(True), "array": numpy.array(2),
                 "complex128": numpy.complex128(1), "complex64": numpy.complex64(1)}
        def reward(row, answer): return KINDS[answer]
    """
    process = GraderProcess(program(tmp_path, source), limit_s=10)

    rewards = [process.grade({}, kind).reward for kind in ("float32", "bool", "array")]
    lost = [process.grade({}, kind).failure for kind in ("complex128", "complex64")]

    assert rewards == [0.5, 1.0, 2.0]
    assert all("expected a finite number" in failure for failure in lost)


def test_importing_the_tasks_loads_nothing_heavy():
    code = f"import sys; sys.path[:] = {sys.path!r}; import esft.tasks.own; "
    code += "import esft.tasks.benchmarks.math_500; "
    code += "import json; print(json.dumps([m for m in sys.modules if '.' not in m]))"

    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code]))

    assert not {"torch", "transformers", "datasets", "sympy", "math_verify"} & set(loaded)
