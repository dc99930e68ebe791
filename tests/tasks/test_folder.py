import json

import pytest

from esft.errors import TaskError
from esft.tasks.folder import FolderRows


def folder_rows(folder):
    return FolderRows(folder=folder, file="arc_easy", fix="use the hub")


def read_bytes(tmp_path, data):
    (tmp_path / "arc_easy.train.jsonl").write_bytes(data)
    return list(folder_rows(tmp_path).rows("train"))


def test_rows_come_with_file_and_line(tmp_path):
    found = read_bytes(tmp_path, b'{"a": 1}\n{"a": 2}\n')

    file = tmp_path / "arc_easy.train.jsonl"
    assert found == [(f"{file} line 1", {"a": 1}), (f"{file} line 2", {"a": 2})]


def test_blank_lines_are_skipped_and_still_counted(tmp_path):
    found = read_bytes(tmp_path, b'\n{"a": 1}\n  \n\r\n{"a": 2}')

    assert [where.split()[-1] for where, _ in found] == ["2", "5"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c"])
def test_only_a_line_feed_ends_a_line(tmp_path, mark):
    data = json.dumps({"a": f"one{mark}two"}, ensure_ascii=False).encode()

    found = read_bytes(tmp_path, data + b"\n" + data + b"\n")

    assert [row for _, row in found] == [{"a": f"one{mark}two"}] * 2


def test_a_byte_order_mark_and_windows_line_ends_are_tolerated(tmp_path):
    found = read_bytes(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')

    assert [row for _, row in found] == [{"a": 1}, {"a": 2}]


def test_a_split_is_there_when_its_file_is(tmp_path):
    read_bytes(tmp_path, b'{"a": 1}\n')

    assert folder_rows(tmp_path).has("train")
    assert not folder_rows(tmp_path).has("test")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"a": 1', "no JSON: Expecting ',' delimiter at column 8"),
        (b"id,question", "no JSON: Expecting value at column 1"),
        (b"[1, 2]", "a JSON list"),
        (b'"text"', "a JSON string"),
        (b"3", "a JSON number"),
        (b"0.5", "a JSON number"),
        (b"true", "a JSON boolean"),
        (b"null", "a JSON null"),
        (b'{"a": "\xff"}', "no UTF-8 at byte 8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON that can be read: Exceeds the limit"),
        (b"[" * 100_000, "no JSON that can be read: "),
    ],
)
def test_a_line_that_is_no_object_is_refused_with_file_and_line(tmp_path, line, found):
    with pytest.raises(
        TaskError, match=rf"arc_easy\.train\.jsonl line 3 is {found}.*expected one JSON object a"
    ) as caught:
        read_bytes(tmp_path, b'{"a": 1}\n\n' + line + b"\n")

    assert caught.value.hint == "correct that line, or use the hub"


@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path, data):
    with pytest.raises(TaskError, match=r"arc_easy\.train\.jsonl is empty, expected one JSON"):
        read_bytes(tmp_path, data)


def test_a_missing_folder_is_refused_with_the_file_it_should_have(tmp_path):
    with pytest.raises(
        TaskError, match=r"nowhere is no folder, expected one with arc_easy\.train\.jsonl"
    ) as caught:
        list(folder_rows(tmp_path / "nowhere").rows("train"))

    assert caught.value.hint == "correct --data-dir (or ESFT_DATA_DIR), or use the hub"


def test_a_missing_file_is_refused_with_what_the_folder_has_of_the_task(tmp_path):
    read_bytes(tmp_path, b'{"a": 1}\n')
    (tmp_path / "arc_challenge.test.jsonl").write_bytes(b"{}\n")

    with pytest.raises(
        TaskError,
        match=r"has no arc_easy\.test\.jsonl; of this task it has arc_easy\.train\.jsonl$",
    ) as caught:
        list(folder_rows(tmp_path).rows("test"))

    assert caught.value.hint.startswith("put arc_easy.test.jsonl there")


def test_a_missing_file_in_a_folder_without_any_of_the_task(tmp_path):
    with pytest.raises(TaskError, match="it has no file of this task"):
        list(folder_rows(tmp_path).rows("test"))


def test_a_file_that_cannot_be_opened_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "arc_easy.train.jsonl"
    path.write_bytes(b'{"a": 1}\n')

    def locked(self, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", locked)

    with pytest.raises(TaskError, match=r"train\.jsonl cannot be read: Permission denied"):
        list(folder_rows(tmp_path).rows("train"))
