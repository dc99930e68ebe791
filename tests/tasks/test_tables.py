"""Rows of a user's own in .csv and .parquet files."""

import csv
import io
import re

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from esft.errors import TaskError
from esft.tasks.own import own_task
from esft.tasks.rows import read_split
from esft.tasks.tables import file_rows, like_named


def write(folder, data, name="my.csv"):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read(folder, data):
    return [row for _, row in file_rows(write(folder, data), "correct the file")]


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3),
    st.sampled_from(",;\t"),
    st.booleans(),
)
def test_what_a_spreadsheet_writes_is_read_as_it_was(tmp_path_factory, rows, sign, bom):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=sign).writerows([("prompt", "answer"), *rows])
    data = text.getvalue().encode("utf-8-sig" if bom else "utf-8")

    found = read(tmp_path_factory.mktemp("csv"), data)

    assert [(row["prompt"], row["answer"]) for row in found] == rows


def test_cells_of_lists_and_empty_cells(tmp_path):
    data = 'prompt,choices,answer,id\nSky?,red | blue,B,\n\nSea?,"[""1|2"", ""3""]",,7\n'

    first, second = read(tmp_path, data)

    assert first == {"prompt": "Sky?", "choices": ["red", "blue"], "answer": "B", "id": None}
    assert second == {"prompt": "Sea?", "choices": ["1|2", "3"], "answer": "", "id": "7"}


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        ("", "my.csv is empty, expected a line of column names", "fill the file"),
        ("prompt,answer\nQ?,1,2\n", "line 2 has 3 cells, expected 2 as the first line", "quotes"),
        ('prompt,answer\n\n"Q\nR",1\n"x\n', "line 5 is not CSV: unexpected end of data", "doubled"),
        ("prompt,prompt\nQ?,1\n", "line 1 has the column names .* one twice", "names the columns"),
        ("prompt,\nQ?,1\n", "line 1 has the column names .* an empty one", "names the columns"),
        (b"prompt,answer\nA,1\n\xe9,2\n", "line 3 is not UTF-8, .* Windows-1252", "iconv -f WIND"),
        ("prompt,answer\nQ?,1\n".encode("utf-16"), "not UTF-8, it looks like UTF-16", "-f UTF-16"),
        ("prompt,choices\nQ?,[1\n", r"line 2: column choices is '\[1', expected a list", "red |"),
    ],
)
def test_a_csv_file_that_is_wrong_is_refused_with_line_and_fix(tmp_path, data, message, hint):
    with pytest.raises(TaskError, match=message) as caught:
        read(tmp_path, data)

    assert hint in caught.value.hint
    assert str(tmp_path / "my.csv") in str(caught.value)


def test_an_empty_cell_that_a_row_needs_is_refused_by_line(tmp_path):
    task = own_task(write(tmp_path, "prompt,answer\nQ?,1\n ,2\nR?,\n"), "exact")

    with pytest.raises(TaskError, match=r"my\.csv line 3: column prompt is ' ', expected a text"):
        read_split(task, "train")


def test_a_parquet_file_is_read_with_its_chats_and_lists(tmp_path):
    chat = [{"role": "user", "content": "Sky?"}, {"role": "assistant", "content": "blue"}]
    path = tmp_path / "my.parquet"
    parquet.write_table(pyarrow.table({"messages": [chat] * 2, "id": [1, 2]}), path)

    rows = read_split(own_task(path, "contains"), "train")

    assert [(row.id, row.answer) for row in rows] == [("1", "blue"), ("2", "blue")]
    assert rows[0].questions[0].messages == (chat[0],)


def test_a_parquet_file_that_is_none_or_empty_is_refused(tmp_path):
    empty = tmp_path / "empty.parquet"
    parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}), empty)

    with pytest.raises(TaskError, match=r"my\.parquet cannot be read as Parquet: "):
        list(file_rows(write(tmp_path, "prompt", "my.parquet"), "x"))
    with pytest.raises(TaskError, match=r"empty\.parquet has no rows"):
        list(file_rows(empty, "x"))


@pytest.mark.parametrize("name", ["mi.csv", "my.jsonl", "my.cvs"])
def test_a_missing_file_names_the_like_named_one_beside_it(tmp_path, name):
    there = write(tmp_path, "prompt,answer\n")

    with pytest.raises(TaskError, match=re.escape(f"{name} cannot be read")) as caught:
        file_rows(tmp_path / name, "correct the path")

    assert caught.value.hint == f"did you mean {there}?"
    assert like_named(tmp_path / "other.parquet") is None
    assert "there is no folder" in like_named(tmp_path / "no" / "my.csv")
