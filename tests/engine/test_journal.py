"""A journal: what was written comes back, anything else is refused by its line."""

import json
import math
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.engine.journal import (
    CHANGING_FORMAT,
    Back,
    Journal,
    JournalStep,
    as_recorded,
    chained,
    pack,
    unpack,
)
from esft.engine.journal_read import lines_until, read_journal
from esft.errors import JournalError
from esft.files import append_line

HEADER = {"seed": 7, "base": "ab" * 32, "include": None, "alpha": 0.1}


def a_step(number):
    return JournalStep(
        step=number,
        rewards=(0.25 * number, -0.5, math.nan),
        coefficients=(-1.0, 1.0, math.nan),
        rows_at=10 * number,
        rows_hash=f"{number:016x}",
    )


def write(path, steps=3, *, end=False):
    journal = Journal(path, "", append_line)
    journal.begin(HEADER)
    for number in range(1, steps + 1):
        journal.append(a_step(number))
    if end:
        journal.end(steps, "cd" * 32, 2)
    return path


@pytest.fixture
def journal(tmp_path):
    return write(tmp_path / "journal.jsonl")


def refused(path, data, match):
    path.write_bytes(data)
    with pytest.raises(JournalError, match=match) as caught:
        read_journal(path)
    assert caught.value.hint
    return caught.value


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


def test_a_line_a_step_after_a_header_each_with_a_checksum_of_it_and_the_one_above(tmp_path):
    lines = write(tmp_path / "journal.jsonl", steps=2).read_text().splitlines()

    header, first, second = map(json.loads, lines)
    assert (header["format"], header["seed"]) == (1, 7)
    assert (first["step"], second["step"]) == (1, 2)
    assert unpack(first["rewards"])[:2] == (0.25, -0.5)
    assert second["rows"] == [20, f"{2:016x}"]
    before = ""
    for line in lines:
        body, _, checksum = line.partition(',"checksum":"')
        before = chained(before, body + "}")
        assert checksum == f'{before}"}}'


def test_what_was_written_comes_back(journal):
    record = read_journal(journal)

    assert record.header == HEADER
    assert record.last == 3
    for number, step in enumerate(record.steps, start=1):
        assert (step.step, step.rows_at, step.rows_hash) == (number, 10 * number, f"{number:016x}")
        assert step.rewards[:2] == (0.25 * number, -0.5)
        assert math.isnan(step.rewards[2])
        assert step.coefficients[:2] == (-1.0, 1.0)
    assert not record.torn
    assert record.end is None
    assert record.whole == journal.stat().st_size


def test_the_steps_of_an_annealed_run_carry_their_sigma_and_alpha(tmp_path):
    journal, path = Journal(tmp_path / "journal", "", append_line), tmp_path / "journal"
    journal.begin(HEADER | {"anneal": "cosine"})
    step = replace(a_step(1), own={"sigma": 0.1 / 3, "alpha": 1e-300})
    journal.append(step)

    record = read_journal(path)

    assert repr(record.steps) == repr((step,))  # with their NaN
    assert json.loads(path.read_text().splitlines()[0])["format"] == 2
    journal.append(a_step(2))
    with pytest.raises(JournalError, match="line 3 is not a step: 'sigma'"):
        read_journal(path)


def test_steps_that_were_taken_back_are_gone_and_the_lines_until_a_step_read_back_alike(tmp_path):
    journal, path = Journal(tmp_path / "journal", "", append_line), tmp_path / "journal"
    journal.begin(HEADER | {"budget": {"max_kl": 0.05}, "awd": 0.25})
    checksums = []
    for number in (1, 2, 3):
        journal.append(a_step(number))
        checksums.append(journal.checksum)
    of_one, _, of_three = checksums
    back = Back(step=3, to=1, was=0.25, awd=0.5, kl=0.1 / 3, kl_se=None, drift=2.5)
    journal.back(back, of_one)
    assert (journal.of_step, journal.backs) == (of_one, (back,))
    second = replace(a_step(2), own={"population": 3, "awd": 0.5})
    journal.append(second)

    record = read_journal(path)

    assert json.loads(path.read_text().splitlines()[0])["format"] == 3
    assert repr(record.steps) == repr((a_step(1), second))
    assert (record.backs, record.lines) == ((back,), (1, 2, 6))
    assert record.checksums[2] == record.checksum == journal.checksum == journal.of_step
    assert of_three not in record.checksums
    for step in range(3):
        (tmp_path / "until").write_text(lines_until(record, step))
        until = read_journal(tmp_path / "until")
        assert until.checksums == record.checksums[: step + 1]
        assert repr(until.steps) == repr(record.steps[:step])
    for there in (2, 5, -1, True):
        whole = path.read_text()
        journal_there = Journal(path, record.checksum, append_line)
        journal_there.back(replace(back, to=there), "")
        with pytest.raises(JournalError, match=f"line 7 goes back to step {there}, expected"):
            read_journal(path)
        path.write_text(whole)


def test_it_can_be_gone_on_with_from_its_last_checksum(tmp_path, journal):
    record = read_journal(journal)
    Journal(journal, record.checksum, append_line).append(a_step(4))

    assert read_journal(journal).last == 4
    assert journal.read_bytes() == write(tmp_path / "whole", steps=4).read_bytes()


def test_there_is_a_checksum_for_every_step_and_an_end_says_what_it_must_rebuild(tmp_path):
    record = read_journal(write(tmp_path / "journal", end=True))

    header, *steps, end = map(json.loads, (tmp_path / "journal").read_text().splitlines())
    assert record.checksums == tuple(line["checksum"] for line in (header, *steps))
    assert record.checksum == end["checksum"]
    assert (record.end.weights, record.end.best) == ("cd" * 32, 2)


@pytest.mark.parametrize(
    ("end", "more", "message"),
    [
        (False, lambda journal: journal.begin(HEADER), "line 5 changes the settings"),
        (True, lambda journal: journal.append(a_step(4)), "line 6 follows the line that ends"),
    ],
)
def test_no_second_header_and_no_line_after_the_end_is_read(tmp_path, end, more, message):
    path = write(tmp_path / "journal", end=end)
    more(Journal(path, read_journal(path).checksum, append_line))

    with pytest.raises(JournalError, match=message) as caught:
        read_journal(path)
    assert "a journal that ends with the line above" in caught.value.hint


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_its_lines_until_a_step_are_the_journal_of_a_shorter_run(tmp_path, journal, step):
    record = read_journal(journal)

    (tmp_path / "part").write_text(lines_until(record, step))

    part = read_journal(tmp_path / "part")
    assert (part.header, part.last, part.checksum) == (HEADER, step, record.checksums[step])


def test_any_flipped_byte_is_refused(tmp_path):
    path = write(tmp_path / "journal", steps=1, end=True)
    whole = path.read_bytes()

    for place in range(len(whole)):
        for flip in (0x01, 0x20, 0xFF):
            data = bytearray(whole)
            data[place] ^= flip
            path.write_bytes(data)
            with pytest.raises(JournalError):
                read_journal(path)


REFUSED = {  # what becomes of the lines of a journal
    "a step changed": (
        lambda lines: [*lines[:2], lines[2].replace(b'"step":2', b'"step":3'), lines[3]],
        "line 3 is not as it was written: its checksum is",
    ),
    "no header": (lambda lines: lines[1:], "line 1 is not as it was written"),
    "a step missing": (lambda lines: [*lines[:1], *lines[2:]], "line 2 is not as it was written"),
    "a step twice": (lambda lines: [*lines[:2], *lines[1:]], "line 3 is not as it was written"),
    "steps swapped": (
        lambda lines: [lines[i] for i in (0, 2, 1, 3)],
        "line 2 is not as it was written",
    ),
    "empty": (lambda _: [], "is empty, expected a header"),
    "a table": (lambda _: [b"step,reward\n1,0.5\n"], "line 1 has no checksum"),
    "all bytes": (lambda _: [bytes(range(256))], "line 1|not as it was written"),
    "a newer format": (lambda _: [b'{"format": 9, "sealed": "so"}\n'], "has format 9, expected"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_journal_as_it_was_written_is_refused(journal, change, message):
    lines = journal.read_bytes().splitlines(keepends=True)

    error = refused(journal, b"".join(change(lines)), message)

    assert str(journal) in str(error)


def test_every_cut_leaves_the_whole_lines_and_says_so(tmp_path):
    path = write(tmp_path / "journal", steps=3)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = [sum(map(len, lines[:count])) for count in range(len(lines) + 1)]

    for cut in range(ends[1], len(whole)):
        path.write_bytes(whole[:cut])
        record = read_journal(path)

        complete = sum(end <= cut for end in ends) - 1
        assert record.last == complete - 1
        assert record.torn == (cut not in ends)
        assert record.whole == ends[complete]


def test_what_is_cut_in_its_first_line_is_refused(journal):
    first = journal.read_bytes().splitlines(keepends=True)[0]

    for cut in range(1, len(first)):
        refused(journal, first[:cut], "ends in its first line")


@pytest.mark.parametrize("zeros", [2, 100])
def test_zeros_that_a_power_cut_leaves_count_as_cut_off(journal, zeros):
    whole = journal.read_bytes()

    journal.write_bytes(whole[:-20] + bytes(zeros))
    assert (read_journal(journal).last, read_journal(journal).torn) == (2, True)
    journal.write_bytes(whole + bytes(zeros))
    assert (read_journal(journal).last, read_journal(journal).torn) == (3, True)


def test_a_newer_format_that_is_whole_and_a_missing_file_are_told_from_damage(journal, tmp_path):
    body = f'{{"format":{CHANGING_FORMAT + 1},"seed":7}}'
    line = f'{body[:-1]},"checksum":"{chained("", body)}"}}\n'

    error = refused(journal, line.encode(), f"has format {CHANGING_FORMAT + 1}, expected")
    assert "pip install -U esft" in error.hint
    with pytest.raises(JournalError, match="cannot be read: No such file"):
        read_journal(tmp_path / "missing")
