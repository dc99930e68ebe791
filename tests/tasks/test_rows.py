import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from esft.errors import TaskError
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split, split_rows
from esft.tasks.sources import generated_rows

from .some_rows import arc_object, plain_task, prompts, write_rows

SIZES = [(1, 0), (3, 5), (7, 8)]


def write_prompts(folder, **splits):
    """Write plain.<split>.jsonl with a row for each prompt."""
    for split, texts in splits.items():
        write_rows(folder, f"plain.{split}", [{"prompt": text, "answer": "yes"} for text in texts])


def split_prompts(folder, train, holdout):
    split = split_rows(plain_task(), train, holdout, folder)
    return prompts(split.train), prompts(split.holdout)


def by_hash(texts):
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())


@pytest.mark.parametrize(
    ("splits", "train", "holdout", "left_out"),
    [
        ({"train": "abcd", "validation": "wxyz"}, "abcd", "wxyz", (0, 0)),
        ({"train": ["a", "A ", "b", "a", "c"], "validation": "vvw"}, "abc", "vw", (2, 1)),
        ({"train": "abcd", "validation": "vwxya", "test": "bw"}, "acd", "vxy", (1, 2)),
    ],
)
def test_rows_are_those_that_come_nowhere_before_in_the_order_of_the_hash_of_what_they_ask(
    tmp_path, splits, train, holdout, left_out
):
    write_prompts(tmp_path, **splits)

    for counts in ((len(train), len(holdout)), (2, 1), (1, 2)):
        tuned, measured = split_prompts(tmp_path, *counts)
        assert tuned == by_hash(train)[: counts[0]]
        assert measured == by_hash(holdout)[: counts[1]]
    assert split_rows(plain_task(), 1, 1, tmp_path).left_out == left_out
    assert prompts(read_split(plain_task(), "train", tmp_path)) == [*splits["train"]]


def test_without_validation_rows_the_holdout_rows_are_those_behind_the_train_rows(tmp_path):
    write_prompts(tmp_path, train="abcde")

    assert split_prompts(tmp_path, 2, 3) == (by_hash("abcde")[:2], by_hash("abcde")[2:])


def test_the_order_of_a_file_does_not_change_which_rows_are_first(tmp_path):
    sorted_, mixed = tmp_path / "sorted", tmp_path / "mixed"
    for folder, order in ((sorted_, 1), (mixed, -1)):
        folder.mkdir()
        write_prompts(folder, train="abcdefgh"[::order], validation="uvwxyz"[::order])

    assert split_prompts(sorted_, 3, 3) == split_prompts(mixed, 3, 3)


@pytest.mark.parametrize("name", ["conciseness", "countdown", "sort-digits"])
def test_rows_that_esft_ships_or_draws_are_in_random_order_and_keep_it(name):
    split = split_rows(get_task(name), 20, 20)

    assert list(split.train) == read_split(get_task(name), "train")[:20]


@pytest.mark.parametrize("has_validation", [True, False])
@pytest.mark.parametrize(("train", "holdout"), SIZES)
def test_no_row_is_in_two_of_train_holdout_and_test(tmp_path, train, holdout, has_validation):
    splits = {"train": "abcdefghijklmnopqrst", "test": "bdfhuvwaa"}
    if has_validation:
        splits["validation"] = "azbycxdw0123456789"
    write_prompts(tmp_path, **splits)

    tuned, measured = split_prompts(tmp_path, train, holdout)

    assert len(tuned) == train
    assert len(measured) == holdout
    assert len({*tuned, *measured}) == train + holdout
    assert not {*tuned, *measured} & {*splits["test"]}


@pytest.mark.parametrize(
    ("splits", "asked", "message", "hint"),
    [
        (
            {"train": "abca", "validation": "vw", "test": "b"},
            (3, 1),
            r"train\.jsonl: 2 train rows, not counting those that occur twice or in another split; "
            r"expected 3 \(task\.train\)",
            "--set task.train=2, or leave --data-dir out",
        ),
        (
            {"train": "abc", "validation": "vwa"},
            (2, 3),
            r"validation\.jsonl: 2 holdout rows, .* expected 3 \(task\.holdout\)",
            "--set task.holdout=2, or leave --data-dir out",
        ),
        (
            {"train": "abc"},
            (2, 2),
            r"train\.jsonl: 1 holdout rows left after the train rows, .* 2 ",
            "--set task.holdout=1, or lower --set task.train=, or",
        ),
        ({"train": "ab", "test": "ab"}, (1, 0), r"train\.jsonl: 0 train rows", "add rows, or lea"),
        ({"train": "a"}, (None, None), "0 holdout rows left after the", "add rows, or lower --set"),
    ],
)
def test_too_few_rows_are_refused_with_how_many_there_are(tmp_path, splits, asked, message, hint):
    write_prompts(tmp_path, **splits)

    with pytest.raises(TaskError, match=rf"{message}") as caught:
        split_rows(plain_task(), *asked, tmp_path)

    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("name", "file", "fix"),
    [
        ("arc-easy", "arc_easy", "--data-dir and ESFT_DATA_DIR out to use allenai/ai2_arc, ARC-E"),
        ("conciseness", "conciseness", "--data-dir out to use rows that ship with esft"),
    ],
)
def test_a_missing_file_points_at_the_rows_of_the_task(tmp_path, name, file, fix):
    with pytest.raises(TaskError, match=rf"has no {file}\.train\.jsonl") as caught:
        split_rows(get_task(name), 1, 1, tmp_path)

    assert f"leave {fix}" in caught.value.hint


@pytest.mark.parametrize(("train", "holdout"), [(0, 1), (-1, 1), (1, -1)])
def test_row_numbers_below_what_a_run_needs_are_a_mistake_of_the_caller(train, holdout):
    with pytest.raises(ValueError, match="expected >= 1 and >= 0"):
        split_rows(get_task("conciseness"), train, holdout)


def test_a_wrong_row_is_named_with_file_line_column_and_value(tmp_path):
    write_rows(tmp_path, "arc_easy.train", [arc_object(1), arc_object(2, answerKey="E")])

    with pytest.raises(
        TaskError,
        match=r"arc_easy\.train\.jsonl line 2: column answerKey is 'E', expected one of A, B, C",
    ) as caught:
        read_split(get_task("arc-easy"), "train", tmp_path)

    assert caught.value.hint.startswith("correct the row, or leave --data-dir and ESFT_DATA_DIR")
    assert caught.value.hint.endswith("reads rows of the form of allenai/ai2_arc, ARC-Easy")


def test_a_data_folder_may_be_under_home(tmp_path, monkeypatch):
    write_prompts(tmp_path, train="ab")
    monkeypatch.setenv("HOME", str(tmp_path.parent))

    assert len(read_split(plain_task(), "train", Path("~") / tmp_path.name)) == 2


def test_published_rows_never_overlap(data_dir):
    task = get_task("arc")

    split = split_rows(task, 1000, 290, data_dir)

    keys = {row.key for row in split.train + split.holdout}
    assert len(keys) == 1290
    assert not keys & {row.key for row in read_split(task, "test", data_dir)}


def numbered(folder, **splits):
    """Write so many different rows to each split, and return the folder."""
    counted = splits.items()
    write_prompts(folder, **{split: [f"{split} {i}" for i in range(n)] for split, n in counted})
    return folder


@pytest.mark.parametrize(
    ("splits", "asked", "train", "holdout"),
    [
        ({"train": 500, "validation": 300}, (None, None), 200, 200),
        ({"train": 50, "validation": 30}, (None, None), 50, 30),
        ({"train": 300}, (None, None), 150, 150),
        ({"train": 31}, (None, None), 16, 15),
        ({"train": 31}, (None, 25), 6, 25),
        ({"train": 31}, (20, None), 20, 11),
        ({"train": 2}, (None, None), 1, 1),
    ],
)
def test_where_no_number_is_asked_for_there_are_200_rows_or_what_is_left(
    tmp_path, splits, asked, train, holdout
):
    split = split_rows(plain_task(), *asked, numbered(tmp_path, **splits))

    assert (len(split.train), len(split.holdout)) == (train, holdout)
    assert {row.key for row in split.train}.isdisjoint(row.key for row in split.holdout)


def test_splits_are_read_under_the_names_of_their_source(tmp_path):
    task = replace(plain_task(), splits={"train": "dev", "test": "hidden"})
    numbered(tmp_path, dev=3, train=4, hidden=2)

    assert len(read_split(task, "train", tmp_path)) == 3
    assert len(read_split(task, "test", tmp_path)) == 2
    with pytest.raises(TaskError, match="plain has no validation rows with answers, it has: train"):
        read_split(task, "validation", tmp_path)


def test_a_task_may_bring_its_own_rows_which_a_folder_replaces(tmp_path):
    made = generated_rows("numbers", lambda split: [{"prompt": split, "answer": "yes"}])
    task = replace(plain_task(), make_source=lambda: made)
    numbered(tmp_path, train=2)

    assert list(made.rows("test")) == [
        ("numbers, split test, row 1", {"prompt": "test", "answer": "yes"})
    ]
    assert prompts(read_split(task, "train")) == ["train"]
    assert prompts(read_split(task, "train", tmp_path)) == ["train 0", "train 1"]
