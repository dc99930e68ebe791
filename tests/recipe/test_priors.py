"""Lines that name prior tasks, and files of them: what is read, and what an error says."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.errors import RecipeError
from esft.recipe.check import SettingsError
from esft.recipe.prior_file import read_prior_file, read_priors
from esft.recipe.prior_line import PriorSpec, parse_prior_line
from esft.tasks.words import GRADERS, REWARDS, SCORINGS, SPLITS


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with a task of the user's own, and a folder beside it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def write(file, *lines):
    file.write_text("\n".join(lines) + "\n")
    return file


def own_rows(file):
    return write(file, json.dumps({"prompt": "2 + 3?", "answer": "5", "split": "test"}))


def refusal(*lines, file):
    """What is said of a file with these lines."""
    with pytest.raises(SettingsError, match=re.escape(str(file))) as caught:
        read_prior_file(write(file, *lines))
    return caught.value


@pytest.mark.parametrize(
    ("line", "spec"),
    [
        ("gsm8k", PriorSpec(name="gsm8k")),
        ("gsm8k:100", PriorSpec(name="gsm8k", rows=100)),
        ("  gsm8k : 100  ", PriorSpec(name="gsm8k", rows=100)),
        ("arc scoring=generate", PriorSpec(name="arc", scoring="generate")),
        ("arc scoring = generate", PriorSpec(name="arc", scoring="generate")),
        ("arc:7\treward=prob", PriorSpec(name="arc", rows=7, reward="prob")),
        ("gsm8k max_new_tokens=64", PriorSpec(name="gsm8k", max_new_tokens=64)),
        ("my.jsonl:5 grader=number", PriorSpec(name="my.jsonl", rows=5, grader="number")),
        ("arc split=train", PriorSpec(name="arc", split="train")),
        ("arc data_dir=my data", PriorSpec(name="arc", data_dir="my data")),
        ("my tasks/a b.py:3", PriorSpec(name="my tasks/a b.py", rows=3)),
        (r"C:\x.jsonl", PriorSpec(name=r"C:\x.jsonl")),
        (r"C:\x.jsonl:20", PriorSpec(name=r"C:\x.jsonl", rows=20)),
        ("C:/x.py", PriorSpec(name="C:/x.py")),
        ("C:/tasks", PriorSpec(name="C:/tasks")),
        (r"C:\tasks", PriorSpec(name=r"C:\tasks")),
        ("a:b.jsonl", PriorSpec(name="a:b.jsonl")),
        ("a:b.jsonl:20", PriorSpec(name="a:b.jsonl", rows=20)),
        ("a=b.jsonl:20", PriorSpec(name="a=b.jsonl", rows=20)),
        ('"a b=c.py":2 data_dir="x y=z"', PriorSpec(name="a b=c.py", rows=2, data_dir="x y=z")),
    ],
)
def test_a_line_names_a_task_its_rows_and_settings(line, spec):
    assert parse_prior_line(line) == spec
    assert parse_prior_line(str(spec)) == spec


def texts():
    return st.text(min_size=1).filter(lambda text: text.strip() and '"' not in text)


@given(
    st.builds(
        PriorSpec,
        name=texts(),
        rows=st.none() | st.integers(1, 10**9 - 1),
        scoring=st.sampled_from([None, "choice"]),
        reward=st.sampled_from([None, *REWARDS]),
        max_new_tokens=st.none() | st.integers(1, 10**9 - 1),
        grader=st.sampled_from([None, *GRADERS]),
        split=st.sampled_from([None, *SPLITS]),
        data_dir=st.none() | texts(),
    )
)
def test_the_text_of_a_spec_is_a_line_that_gives_it_back(spec):
    assert parse_prior_line(str(spec)) == spec


@given(st.text(alphabet='ab1:=" #/\\._\t') | st.text())
def test_what_a_line_is_recorded_as_is_read_as_the_line_was(text):
    try:
        spec = parse_prior_line(text)
    except SettingsError:
        return

    assert parse_prior_line(str(spec)) == spec


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("gsm8k:0", '"gsm8k:0" has rows "0", expected a whole number, 1 or more', "gsm8k:100"),
        ("gsm8k:-5", 'has rows "-5"', "gsm8k:100"),
        ("gsm8k:many", 'has rows "many"', "gsm8k:100"),
        ("gsm8k:", 'has rows ""', "gsm8k:100"),
        ("gsm8k:1.5", 'has rows "1.5"', "gsm8k:100"),
        ("gsm8k:" + "9" * 5000, "of at most 9 digits", "gsm8k:100"),
        (":5", "has no name", "gsm8k:100"),
        ("", "has no name", "gsm8k:100"),
        ("gsm8k scorign=choice", "has scorign, which is no setting", "did you mean scoring?"),
        ("gsm8k max-new-tokens=5", "max-new-tokens, which", "did you mean max_new_tokens?"),
        ("gsm8k rows=20", "has rows, which is no setting", "behind the name: gsm8k:20"),
        ("gsm8k zzz=1", "expected one of: scoring, reward, max_new_tokens", "take zzz out"),
        ("arc split=test split=train", "has split twice", "take one split out"),
        ("arc scoring=choise", 'has scoring "choise", expected "choice" or', "scoring=choice"),
        ("arc reward=yes", 'has reward "yes"', "reward="),
        ("x.jsonl grader=numbers", 'has grader "numbers"', "grader=number"),
        ("arc split=dev", 'has split "dev"', "split="),
        ("arc max_new_tokens=0", 'has max_new_tokens "0", expected a whole', "max_new_tokens=64"),
        ("arc data_dir=", 'has data_dir "", expected a folder', "data_dir=data"),
        ("arc reward=prob scoring=generate", 'has reward "prob", expected', "scoring=choice"),
    ],
)
def test_a_line_that_is_wrong_is_refused_with_a_fix(line, message, hint):
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        parse_prior_line(line)

    assert len(caught.value.problems) == 1
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("key", "words"),
    [("scoring", SCORINGS), ("reward", REWARDS), ("grader", GRADERS), ("split", SPLITS)],
)
def test_each_word_of_a_setting_is_taken(key, words):
    for word in words:
        assert getattr(parse_prior_line(f"arc {key}={word}"), key) == word


def test_all_that_is_wrong_with_a_line_is_said_at_once():
    with pytest.raises(SettingsError, match="zzz") as caught:
        parse_prior_line("gsm8k:0 zzz=1 split=dev max_new_tokens=few")

    assert len(caught.value.problems) == 4


def test_a_file_has_a_task_a_line_with_comments_and_blank_lines(tmp_path):
    file = tmp_path / "tasks.txt"
    file.write_bytes(
        b"\xef\xbb\xbf# what it should keep\r\n\r\n"
        b"gsm8k:100   max_new_tokens=64  # sums\r\n  arc\r\n#mmlu\r\n"
    )

    assert read_prior_file(file) == ("gsm8k:100 max_new_tokens=64", "arc")


def test_a_hash_within_a_path_or_quotes_begins_no_comment(here):
    own_rows(here / "a#b.jsonl")
    own_rows(here / "a #c.jsonl")
    lines = ('a#b.jsonl grader=number  # "', '"a #c.jsonl" grader=number')

    read = read_prior_file(write(here / "tasks.txt", *lines))

    assert read == ("a#b.jsonl grader=number", lines[1])
    assert read_prior_file(write(here / "again.txt", *read)) == read


def test_every_error_of_a_file_is_said_at_once_with_its_line(tmp_path):
    file = tmp_path / "tasks.txt"

    error = refusal(
        "# prior tasks",
        "gsm8k:0",
        "arc",
        "gsmk:100",
        "",
        "mmlu scoring=exact zzz=1",
        "arc:5",
        "piqa grader=number",
        "no.jsonl",
        file=file,
    )

    assert error.exit_code == 2
    messages = str(error).splitlines()
    assert [int(re.search(r"line (\d+): ", each)[1]) for each in messages] == [2, 4, 6, 7, 8, 9]
    assert all(each.startswith(f"{file} line ") for each in messages)
    assert len(error.hint.splitlines()) == 6
    assert all(each.startswith(f"{file} line ") for each in error.hint.splitlines())


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("gsmk:5", "task 'gsmk' is unknown", "did you mean gsm8k"),
        ("piqa scoring=exact", "scoring is 'exact', expected choice or generate for piqa", None),
        ("gsm8k reward=prob", "needs options to choose from: gsm8k", "set reward to logprob"),
        ("piqa grader=number", "piqa has a grader of its own", "leave grader= out"),
        ("my.jsonl", "my.jsonl needs a grader", "such as grader=number"),
        ("no.jsonl", "no.jsonl is no file in the current folder, nor beside", "correct the path"),
        ("bad.jsonl grader=number", "bad.jsonl line 1 is no JSON", "correct that line"),
    ],
)
def test_a_task_that_cannot_be_had_or_scored_so_is_an_error_of_its_line(here, line, message, hint):
    own_rows(here / "my.jsonl")
    write(here / "bad.jsonl", "{")

    error = refusal("arc", line, file=here / "tasks.txt")

    assert str(error).startswith(f"{here / 'tasks.txt'} line 2: ")
    assert message in str(error)
    assert hint is None or hint in error.hint


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("arc", "arc:5"),
        ("my.jsonl grader=number", "sub/my.jsonl grader=exact"),
        ("a_b.py", "A-b.py"),
    ],
)
def test_a_task_stands_in_a_file_once_by_the_name_that_its_rows_are_kept_under(here, first, second):
    (here / "sub").mkdir()
    for name in ("my.jsonl", "sub/my.jsonl", "a_b.py", "A-b.py"):
        own_rows(here / name)

    error = refusal(first, "mmlu", second, file=here / "tasks.txt")

    expected = f"line 3: the task is there before, expected each once: {here / 'tasks.txt'} line 1"
    assert expected in str(error)


def test_paths_are_those_of_the_current_folder_else_those_beside_the_file(here):
    there = here.parent / "there"
    for file in (here / "both.jsonl", there / "both.jsonl", there / "beside.jsonl"):
        own_rows(file)
    (there / "data").mkdir()
    lines = ("both.jsonl grader=number", "beside.jsonl:1 grader=number", "arc data_dir=data")
    write(there / "tasks.txt", *lines)

    read = read_prior_file(there / "tasks.txt")

    assert read == (
        "both.jsonl grader=number",
        f"{there}/beside.jsonl:1 grader=number",
        f"arc data_dir={there}/data",
    )


@pytest.mark.parametrize("content", ["", "\n\n", "# gsm8k\n   # arc\n"])
def test_a_file_without_tasks_is_refused(tmp_path, content):
    (tmp_path / "tasks.txt").write_text(content)

    with pytest.raises(RecipeError, match=r"tasks\.txt has no tasks, expected one") as caught:
        read_prior_file(tmp_path / "tasks.txt")

    assert "gsm8k:100" in caught.value.hint


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"arc\n# caf\xe9\n")

    with pytest.raises(RecipeError, match=r"no\.txt cannot be read: No such file"):
        read_prior_file(tmp_path / "no.txt")
    with pytest.raises(RecipeError, match=r"latin\.txt line 2 is no UTF-8"):
        read_prior_file(tmp_path / "latin.txt")


def test_files_and_tasks_can_be_given_together(here):
    write(here / "tasks.txt", "gsm8k:100", "arc")
    write(here / "more", "piqa")

    assert read_priors(["tasks.txt", "mmlu:7 split=validation", "more"]) == (
        "gsm8k:100",
        "arc",
        "mmlu:7 split=validation",
        "piqa",
    )


def test_a_task_that_is_given_twice_or_unknown_says_where(here):
    write(here / "tasks.txt", "gsm8k:100", "arc")

    with pytest.raises(SettingsError, match="--prior: the task is there before") as caught:
        read_priors(["tasks.txt", "arc:5", "nosuch"])

    assert "tasks.txt line 2 has arc" in str(caught.value)
    assert "--prior: task 'nosuch' is unknown" in str(caught.value)


def test_a_list_that_is_not_there_is_missed_as_a_file(here):
    with pytest.raises(RecipeError, match=r"tasks\.txt cannot be read: No such file"):
        read_priors(["tasks.txt"])


def test_a_file_called_like_a_task_is_not_read_for_it(here):
    write(here / "arc", "no task at all")

    assert read_priors(["arc"]) == ("arc",)
