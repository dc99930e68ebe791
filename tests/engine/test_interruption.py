"""Ctrl-C at any moment of a member or of a visit to the base leaves every bit as it was."""

import sys
from contextlib import contextmanager
from itertools import count

import pytest
from some_weights import DRIFT_DTYPES, DTYPES, bits_of, some_drift, some_weights

from esft.engine import Member, perturbed

# The lines of `finish` itself are left out: what the interpreter runs between the end of a block
# and the first line of a `try` is out of reach of any code.
MEMBER = {
    "undo.py": ("replace", "_to_keep", "_restore_all", "write_to"),
    "kernels.py": ("perturb", "subtract"),
}
BASE = {
    "drift.py": ("at_base", "_round_weights", "_read", "_parts_of"),
    "stream.py": ("brought",),
    "kept.py": ("read",),
    "kernels.py": ("composed",),
}


@contextmanager
def ctrl_c_at(nth, functions):
    """Raise KeyboardInterrupt before the nth line that runs of these functions in the block.

    Yields a list that gets the name of the interrupted function.
    """
    lines = count(1)
    interrupted = []

    def trace(frame, event, _):
        code = frame.f_code
        if code.co_name not in functions.get(code.co_filename.rpartition("/")[2], ()):
            return None
        if event == "line" and next(lines) == nth:
            sys.settrace(None)
            interrupted.append(code.co_name)
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        yield interrupted
    finally:
        sys.settrace(None)


@pytest.mark.parametrize("sigma", [1e-3, 0.1], ids=["short logs", "long logs"])
@pytest.mark.parametrize(
    ("kept", "revert"), [(None, "log"), ("float32", "log"), ("float16", "restore")]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ctrl_c_before_any_line_of_a_member_leaves_every_bit(dtype, kept, revert, sigma):
    drift = None if kept is None else some_drift(dtype, kept)
    weights = some_weights(dtype) if drift is None else drift.weights
    before = bits_of(weights)
    places = []

    for nth in count(1):
        try:
            with (
                ctrl_c_at(nth, MEMBER) as interrupted,
                perturbed(weights, Member(nth), sigma, drift, revert),
            ):
                pass
        except KeyboardInterrupt:
            places += interrupted
        else:
            break
        assert bits_of(weights) == before, f"line {nth}, in {interrupted}"

    assert bits_of(weights) == before
    assert {"replace", "_restore_all"} <= set(places)


@pytest.mark.parametrize("kept", DRIFT_DTYPES)
def test_ctrl_c_before_any_line_of_a_visit_to_the_base_leaves_every_bit(kept):
    drift = some_drift(DTYPES[2], kept)
    weights = drift.weights
    before = bits_of(weights)
    places = []

    for nth in count(1):
        functions = dict(BASE)
        try:
            with ctrl_c_at(nth, functions) as interrupted, drift.at_base():
                functions["drift.py"] = BASE["drift.py"][1:]  # entered: see above
        except KeyboardInterrupt:
            places += interrupted
        else:
            break
        assert bits_of(weights) == before, f"line {nth}, in {interrupted}"

    assert bits_of(weights) == before
    assert set(places) == {name for names in BASE.values() for name in names}
