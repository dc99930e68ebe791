import gc
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from esft.errors import TaskError
from esft.tasks.graders.process import GraderProcess

# Long enough for a loaded machine to answer in, short enough to wait for a few times.
LIMIT_S = 1.0

# What an answer says is what the program does with it; any other answer is worth its length / 10.
MISCHIEF = """
import math, os, signal, subprocess, sys, threading, time

class Odd:
    def __repr__(self): raise ValueError
    def __float__(self): raise KeyError

class Mute(Exception):
    def __str__(self): raise ValueError

def sleep(row): time.sleep(60)
def spin(row):
    while True: pass
def stubborn(row):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    while True: time.sleep(60)
def divide(row): return 1 / 0
def leave(row): sys.exit(3)
def mute(row): raise Mute
def long(row): raise ValueError("x" * 100_000 + "\\nline")
def deep(row): return deep(row)
def end(row): os._exit(3)
def shot(row): os.kill(os.getpid(), signal.SIGKILL)
def chatter(row):
    print("to stdout")
    os.write(1, b'{"number": 2, "reward": 1.0}\\n')
    return 0.5
def scribble(row):
    for descriptor in range(64):
        try: os.write(descriptor, b'{"number": 2, "reward": 1.0}\\n')
        except OSError: pass
    return 0.25
def scrawl(row):
    for descriptor in range(64, 256):
        try: os.write(descriptor, b"garbage\\n")
        except OSError: pass
    time.sleep(60)
def early(row):
    for descriptor in range(64, 256):
        try: os.write(descriptor, b'{"number": 1, "reward": 1.0}\\n')
        except OSError: pass
    return 0.125
def flood(row):
    while True:
        for descriptor in range(64, 256):
            try: os.write(descriptor, b"x" * 65536)
            except OSError: pass
def shut(row):
    os.closerange(3, 256)
def late(row):
    threading.Thread(target=lambda: (time.sleep(0.1), scrawl(row)), daemon=True).start()
    time.sleep(60)
def fork(row):
    os.fork()
    return 0.5
def who(row): return float(os.getpid())
def heir(row):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with open(row["pid"], "w") as file: file.write(str(child.pid))
    time.sleep(60)
def change(row):
    row["changed"] = True
    return 0.5
def look(row): return float("changed" in row)
def text(row): return "0.5"
def none(row): return None
def nan(row): return math.nan
def inf(row): return -math.inf
def complexity(row): return 1 + 0j
def listing(row): return [1.0]
def odd(row): return Odd()
def huge(row): return 10 ** 400
def huger(row): return 10 ** 10_000
def yes(row): return True
def whole(row): return 2
def less(row): return -1.5
def fraction(row):
    from fractions import Fraction
    return Fraction(1, 4)

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
    process = GraderProcess(program(tmp_path_factory.mktemp("own"), MISCHIEF), limit_s=LIMIT_S)
    yield process
    process.close()


def has_ended(pid, within_s=5.0):
    """Whether the process ends in time, or is a zombie that its new parent has yet to see."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ("sleep", "took longer than 1 s"),
        ("spin", "took longer than 1 s"),
        ("stubborn", "took longer than 1 s"),
        ("late", "took longer than 1 s|wrote on the grader's own socket"),
        ("divide", "raised ZeroDivisionError: division by zero"),
        ("leave", "raised SystemExit: 3"),
        ("mute", "raised Mute"),
        ("long", r"raised ValueError: x{188}\.\.\."),
        ("deep", "raised RecursionError: maximum recursion depth exceeded.*"),
        ("end", "ended with exit code 3"),
        ("shot", "was ended by SIGKILL"),
        ("scrawl", "wrote on the grader's own socket"),
        ("flood", "wrote on the grader's own socket"),
        ("shut", "ended with exit code 1"),
        ("text", "returned '0.5', expected a finite number"),
        ("none", "returned None, expected a finite number"),
        ("nan", "returned nan, expected a finite number"),
        ("inf", "returned -inf, expected a finite number"),
        ("complexity", r"returned \(1\+0j\), expected a finite number"),
        ("listing", r"returned \[1\.0\], expected a finite number"),
        ("odd", "returned <Odd instance at .*>, expected a finite number"),
        ("huge", r"returned 10+\.\.\.0+, expected a finite number"),
        ("huger", "returned an object of type int, expected a finite number"),
    ],
)
def test_an_answer_that_gets_no_score_is_worth_0_and_the_next_one_is_graded(
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
        ("scribble", 0.25, False),
        ("early", 0.125, False),
        ("fork", 0.5, False),
        ("yes", 1.0, True),
        ("whole", 2.0, True),
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
    assert grader.grade({}, "fine").reward == 0.4


def test_what_a_program_does_to_a_row_is_gone_with_the_next_answer(grader):
    row = {"prompt": "Q?"}

    assert grader.grade(row, "change").reward == 0.5
    assert grader.grade(row, "look").reward == 0.0
    assert row == {"prompt": "Q?"}


def test_one_process_grades_all_answers_that_are_no_trouble(grader):
    grader.grade({}, "fine")
    child = grader._child._process.pid
    for answer in ("fine", "divide", "none", "chatter", "fork", "fine"):
        grader.grade({}, answer)

    assert grader._child._process.pid == child


def test_a_fork_of_the_process_answers_nothing(grader):
    grader.grade({}, "fork")

    who = {grader.grade({}, "who").reward for _ in range(20)}

    assert who == {float(grader._child._process.pid)}


def test_what_a_program_prints_goes_to_stderr(tmp_path, capfd):
    process = GraderProcess(program(tmp_path, MISCHIEF))
    capfd.readouterr()

    process.grade({}, "chatter")
    process.close()

    out, err = capfd.readouterr()
    assert out == ""
    assert "to stdout" in err


def test_what_a_program_started_ends_with_it(grader, tmp_path):
    file = tmp_path / "pid"

    grader.grade({"pid": str(file)}, "heir")

    assert has_ended(int(file.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
@pytest.mark.parametrize("busy", [False, True])
def test_the_process_ends_with_one_that_is_killed(tmp_path, busy):
    path = program(
        tmp_path,
        """
        import os, time
        def reward(row, answer):
            if answer == "sleep":
                open(row["busy"], "w").close()
                time.sleep(60)
            return float(os.getpid())
        """,
    )
    parent = f"""
        import sys
        sys.path[:] = {sys.path!r}
        from pathlib import Path
        from esft.tasks.graders.process import GraderProcess
        process = GraderProcess(Path({str(path)!r}), limit_s=60)
        print(int(process.grade({{}}, "").reward), flush=True)
        if {busy}:
            process.grade({{"busy": {str(tmp_path / "busy")!r}}}, "sleep")
        else:
            sys.stdin.read()
    """
    started = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with started:
        child = int(started.stdout.readline())
        while busy and not (tmp_path / "busy").exists():
            time.sleep(0.02)
        os.kill(child, 0)
        started.kill()

    assert has_ended(child)


def test_the_process_ends_with_the_object(tmp_path):
    process = GraderProcess(program(tmp_path, MISCHIEF))
    process.grade({}, "fine")
    child = process._child._process.pid

    del process
    gc.collect()

    assert has_ended(child)


def test_a_process_lost_between_two_answers_costs_none(grader):
    grader.grade({}, "fine")
    os.kill(grader._child._process.pid, signal.SIGKILL)
    time.sleep(0.1)

    assert grader.grade({}, "fine").reward == 0.4


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has /proc")
def test_the_process_is_no_group_of_ours_ignores_ctrl_c_and_is_the_first_to_lose_its_memory(grader):
    grader.grade({}, "fine")
    child = grader._child._process.pid
    os.kill(child, signal.SIGINT)

    assert os.getsid(child) == child
    assert Path(f"/proc/{child}/oom_score_adj").read_text().strip() == "1000"
    assert grader.grade({}, "fine").reward == 0.4
    assert grader._child._process.pid == child


def cut_in_two(child, *_):
    child._channel.sendall(b'{"row": {')
    raise KeyboardInterrupt("pressed")


def without_its_reply(child, _, request, __):
    child._channel.sendall(json.dumps({**request, "number": 3}).encode() + b"\n")
    raise KeyboardInterrupt("pressed")


@pytest.mark.parametrize("ask", [cut_in_two, without_its_reply])
def test_ctrl_c_within_an_answer_leaves_nothing_for_the_next(tmp_path, monkeypatch, ask):
    process = GraderProcess(program(tmp_path, MISCHIEF))
    process.grade({}, "fine")
    with monkeypatch.context() as patched:
        patched.setattr("esft.tasks.graders.process._Child.ask", ask)
        with pytest.raises(KeyboardInterrupt, match="pressed"):
            process.grade({}, "x" * 7)

    assert process.grade({}, "fine").reward == 0.4
    process.close()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "def reward(row, answer)\n    pass\n",
            r"my\.py\", line 1(.|\n)*SyntaxError: expected ':'",
        ),
        ("import no_such_module_at_all\n", "No module named 'no_such_module_at_all'"),
        ("def f():\n    1 / 0\nf()\n", r"line 3, in <module>(.|\n)*ZeroDivisionError"),
        ("import sys\nsys.exit('no')\n", "SystemExit: no"),
        ("import os\nos._exit(7)\n", "cannot be used as a task: ended with exit code 7"),
        ("x = 1\n", r"it has no function reward\(row, answer\)"),
        ("reward = 1.0\n", r"it has no function reward\(row, answer\)"),
        ("import time\ntime.sleep(60)\n", "took longer than 0.5 s"),
    ],
)
def test_a_program_that_fails_on_import_is_refused_with_the_end_of_its_traceback(
    tmp_path, source, message
):
    path = program(tmp_path, source)
    slow = "sleep" in source
    process = GraderProcess(path, start_limit_s=0.5 if slow else 60.0)

    with pytest.raises(TaskError, match=message) as caught:
        process.grade({}, "fine")

    assert str(path) in str(caught.value)
    assert "grader_worker" not in str(caught.value)
    assert "importlib" not in str(caught.value)
    assert caught.value.hint.startswith("correct the program")


def test_a_program_that_is_not_there_is_refused(tmp_path):
    process = GraderProcess(tmp_path / "my.py")

    with pytest.raises(TaskError, match=r"my\.py cannot be used .* cannot be read: No such file"):
        process.grade({}, "fine")


def test_a_program_changed_meanwhile_grades_as_it_did(tmp_path):
    path = program(tmp_path, MISCHIEF)
    process = GraderProcess(path)
    process.grade({}, "end")
    path.write_text("broken(")

    assert process.grade({}, "fine").reward == 0.4
    process.close()


def test_a_start_that_fails_later_is_a_failure_of_that_answer(tmp_path):
    once = tmp_path / "once"
    source = f"""
        import os, pathlib
        pathlib.Path({str(once)!r}).mkdir()
        def reward(row, answer):
            os._exit(3)
    """
    process = GraderProcess(program(tmp_path, source))
    process.grade({}, "end")

    score = process.grade({}, "fine")

    assert score.reward == 0.0
    assert score.failure.startswith("could not be started again: ")
    assert "FileExistsError" in score.failure


def test_a_program_finds_its_neighbours_and_is_not_taken_for_a_module_of_python(tmp_path):
    program(tmp_path, "WORTH = 0.75\n", "neighbour.py")
    path = program(
        tmp_path,
        """
        import numbers, neighbour
        assert hasattr(numbers, "Real")
        def reward(row, answer):
            return neighbour.WORTH
        """,
    )

    assert GraderProcess(path).grade({}, "").reward == 0.75


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ("", None),
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


def test_numbers_of_numpy_and_torch_are_rewards(tmp_path):
    pytest.importorskip("numpy")
    path = program(
        tmp_path,
        """
        import numpy
        KINDS = {"float32": numpy.float32(0.5), "bool": numpy.bool_(True), "zero": numpy.array(0.5),
                 "complex": numpy.complex128(1), "nan": numpy.float64("nan")}
        def reward(row, answer):
            return KINDS[answer]
        """,
    )
    process = GraderProcess(path, limit_s=10)

    scores = {kind: process.grade({}, kind) for kind in ("float32", "bool", "zero")}
    lost = [process.grade({}, kind).failure for kind in ("complex", "nan")]

    assert {kind: score.reward for kind, score in scores.items()} == {
        "float32": 0.5,
        "bool": 1.0,
        "zero": 0.5,
    }
    assert all("expected a finite number" in failure for failure in lost)


def test_importing_the_tasks_loads_nothing_heavy():
    code = f"import sys; sys.path[:] = {sys.path!r}; import esft.tasks.own; "
    code += "import esft.tasks.benchmarks.math_500; "
    code += "import json; print(json.dumps([m for m in sys.modules if '.' not in m]))"

    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code]))

    assert not {"torch", "transformers", "datasets", "sympy", "math_verify"} & set(loaded)
