"""Ctrl-C at any moment of a member or of a visit to the base leaves every bit as it was."""

import sys
from contextlib import contextmanager
from itertools import count

import pytest
import torch
from some_weights import DTYPES, bits_of, both_kernels, kinds, some_drift, some_weights, walk

from esft.engine import Drift, Member, visiting
from esft.engine.kernels import Kernels

# The lines of `finish` itself are left out: what the interpreter runs between the end of a block
# and the first line of a `try` is out of reach of any code.
MEMBER = {
    "perturb.py": ("visit", "moved", "leave"),
    "undo.py": ("replace", "_to_keep", "restore", "write_to"),
    "drift.py": ("round_weights", "compose", "parts", "_part", "_parts_of"),
    "reference.py": ("perturb", "compose"),
    "numba_cpu.py": ("perturb", "compose", "_writing", "share_out", "work"),
}
BASE = {
    "drift.py": ("holding", "round_weights", "parts", "_part", "_parts_of"),
    "stream.py": ("brought",),
    "reference.py": ("compose", "composed", "read"),
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


def interrupted_everywhere(weights, functions, block, first=1, stride=1):
    """Run `block` with Ctrl-C before every line in turn, or every `stride`th from the `first` on;
    return the functions it came in."""
    before = bits_of(weights)
    nth, reached, interrupted = first, set(), True
    while interrupted:
        traced = dict(functions)
        try:
            with ctrl_c_at(nth, traced) as interrupted, block(nth):
                if "drift.py" in traced:  # at_base is entered: see above
                    traced["drift.py"] = traced["drift.py"][1:]
        except KeyboardInterrupt:
            reached.update(interrupted)
        assert bits_of(weights) == before, f"line {nth}, in {interrupted}"
        nth += stride
    return reached


@pytest.mark.parametrize("sigma", [1e-3, 0.1], ids=["short logs", "long logs"])
@pytest.mark.parametrize(
    ("kept", "revert"), [(None, "log"), ("float32", "log"), ("float16", "restore")]
)
@both_kernels
def test_ctrl_c_before_any_line_of_a_member_leaves_every_bit(kernels, kept, revert, sigma):
    reached = set()
    # All dtypes pass the same lines, but for those that round: each is interrupted at others.
    for first, dtype in enumerate(DTYPES):
        drift = None if kept is None else some_drift(dtype, kept, kernels=kernels)
        weights = some_weights(dtype, kernels) if drift is None else drift.weights

        @contextmanager
        def two_members(nth, weights=weights, drift=drift):
            with visiting(weights, sigma, drift, revert) as visit:
                visit(Member(nth, -1))
                visit(Member(nth))
                yield

        where = {"first": 7 * first + 7, "stride": 7 * len(DTYPES)}
        reached |= interrupted_everywhere(weights, MEMBER, two_members, **where)

    assert ({"replace", "restore"} if revert == "log" else {"parts"}) <= reached


@kinds
@pytest.mark.parametrize("where", ["at_base", "at_anchor"])
def test_ctrl_c_before_any_line_of_a_visit_to_base_or_anchor_leaves_every_bit(kept, where):
    drift = Drift(some_weights(torch.bfloat16, Kernels()), dtype=kept, moving=True)
    walk(drift, 3, tau=0.3)

    visit = getattr(drift, where)
    reached = interrupted_everywhere(drift.weights, BASE, lambda _: visit())

    assert reached == {name for names in BASE.values() for name in names}
