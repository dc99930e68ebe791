import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.engine.journal import Journal, JournalStep, as_recorded, chained, pack, unpack
from esft.files import append_line


def a_step(number, reward=0.25):
    return JournalStep(
        step=number,
        rewards=(reward, 0.5, math.nan),
        coefficients=(-1.0, 1.0, math.nan),
        rows_at=10 * number,
        rows_hash="abc",
    )


def lines_of(path):
    return path.read_text().splitlines()


def write(path, steps, header=None):
    journal = Journal(path, "", append_line)
    journal.begin({"seed": 0} if header is None else header)
    for step in steps:
        journal.append(step)
    return lines_of(path)


@given(st.lists(st.floats(width=32), max_size=40))
def test_float32_values_survive_packing(values):
    back = unpack(pack(tuple(values)))

    assert struct.pack(f"{len(back)}f", *back) == struct.pack(f"{len(values)}f", *values)


def test_coefficients_are_used_as_they_are_recorded():
    recorded = as_recorded([0.1, None, -2.0])

    assert recorded[0] != 0.1
    assert recorded[0] == pytest.approx(0.1, rel=1e-7)
    assert math.isnan(recorded[1])
    assert unpack(pack(recorded))[0] == recorded[0]


def test_a_line_a_step_after_a_header_with_the_format(tmp_path):
    lines = write(tmp_path / "journal.jsonl", [a_step(1), a_step(2)], {"seed": 7})

    records = [json.loads(line) for line in lines]
    assert records[0]["format"] == 1
    assert records[0]["seed"] == 7
    assert [record["step"] for record in records[1:]] == [1, 2]
    assert unpack(records[1]["rewards"])[:2] == (0.25, 0.5)
    assert records[2]["rows"] == [20, "abc"]


def test_each_checksum_follows_from_its_line_and_the_one_above(tmp_path):
    lines = write(tmp_path / "journal.jsonl", [a_step(1), a_step(2)])

    before = ""
    for line in lines:
        body, _, checksum = line.partition(',"checksum":"')
        before = chained(before, body + "}")
        assert checksum == f'{before}"}}'


def test_what_comes_early_changes_every_checksum_after_it(tmp_path):
    one = write(tmp_path / "one.jsonl", [a_step(1), a_step(2)])
    other = write(tmp_path / "other.jsonl", [a_step(1, reward=0.26), a_step(2)])

    same = [
        json.loads(a)["checksum"] == json.loads(b)["checksum"]
        for a, b in zip(one, other, strict=True)
    ]
    assert same == [True, False, False]


def test_500_steps_of_30_members_take_kilobytes(tmp_path):
    step = JournalStep(
        step=500, rewards=(0.1,) * 30, coefficients=(0.1,) * 30, rows_at=10**6, rows_hash="f" * 16
    )

    (_, line) = write(tmp_path / "journal.jsonl", [step])

    assert 500 * len(line) < 256 * 1024
