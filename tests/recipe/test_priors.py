"""Lines that name prior tasks, and files of them: what is read, and what an error says."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esft.errors import RecipeError
from esft.recipe.check import SettingsError
from esft.recipe.priors import PriorSpec, parse_prior_line, read_priors
from esft.recipe.settings import Prior
from esft.tasks.words import GRADERS, REWARDS, SPLITS


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder, and a folder beside it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def write(file, *lines):
    file.write_text("\n".join(lines) + "\n")
    return file


def own_rows(file):
    return write(file, json.dumps({"prompt": "2 + 3?", "answer": "5", "split": "test"}))


def read(file):
    return read_priors([str(file)])


def refusal(*lines, file):
    """What is said of a file with these lines."""
    with pytest.raises(SettingsError, match=re.escape(str(file))) as caught:
        read(write(file, *lines))
    return caught.value


@pytest.mark.parametrize(
    ("line", "spec"),
    [
        ("gsm8k", PriorSpec(name="gsm8k")),
        ("  gsm8k:100  # sums", PriorSpec(name="gsm8k", rows=100)),
        ("gsm8k rows=100", PriorSpec(name="gsm8k", rows=100)),
        ("arc:7\treward=prob", PriorSpec(name="arc", rows=7, reward="prob")),
        ("gsm8k max_new_tokens=64", PriorSpec(name="gsm8k", max_new_tokens=64)),
        ("my.jsonl:5 grader=number", PriorSpec(name="my.jsonl", rows=5, grader="number")),
        ("arc split=train", PriorSpec(name="arc", split="train")),
        ("know:500 source=nq-open", PriorSpec(name="know", rows=500, source="nq-open")),
        ("know match=words", PriorSpec(name="know", match="words")),
        ("hub:a/b:main", PriorSpec(name="hub:a/b:main")),
        ("hub:a/b:7", PriorSpec(name="hub:a/b", rows=7)),
        (
            "hub:squad:main:7 grader=exact columns=prompt=q,answer=a.b",
            PriorSpec(name="hub:squad:main", rows=7, grader="exact", columns="prompt=q,answer=a.b"),
        ),
        ('arc data_dir="my data"', PriorSpec(name="arc", data_dir="my data")),
        ("arc 'data_dir=my \"data\"'", PriorSpec(name="arc", data_dir='my "data"')),
        (r"C:\new\x.jsonl", PriorSpec(name=r"C:\new\x.jsonl")),
        (r'"C:\my tasks\x.jsonl":20', PriorSpec(name=r"C:\my tasks\x.jsonl", rows=20)),
        ("C:/tasks", PriorSpec(name="C:/tasks")),
        (r"C:\tasks", PriorSpec(name=r"C:\tasks")),
        ("a:b.jsonl", PriorSpec(name="a:b.jsonl")),
        ("a=b.jsonl:20", PriorSpec(name="a=b.jsonl", rows=20)),
        ('"a #b=c.py":2 data_dir="x y=z"', PriorSpec(name="a #b=c.py", rows=2, data_dir="x y=z")),
    ],
)
def test_a_line_names_a_task_its_rows_and_settings_in_words_of_a_shell(line, spec):
    assert parse_prior_line(line) == spec
    assert parse_prior_line(str(spec)) == spec


def texts():
    characters = st.characters(codec="utf-8", exclude_characters="\0")
    return st.text(characters, min_size=1).filter(str.strip)


@given(
    st.builds(
        PriorSpec,
        name=texts().map(lambda text: f"{text}.py"),
        rows=st.none() | st.integers(1, 10**9),
        scoring=st.sampled_from([None, "choice"]),
        reward=st.sampled_from([None, *REWARDS]),
        max_new_tokens=st.none() | st.integers(1, 10**9),
        grader=st.sampled_from([None, *GRADERS]),
        split=st.sampled_from([None, *SPLITS]),
        data_dir=st.none() | texts(),
    )
)
def test_the_text_of_a_spec_is_a_line_that_gives_it_back(spec):
    assert parse_prior_line(str(spec)) == spec


@given(st.text(alphabet="ab1:=\"' #/\\._\t") | st.text())
def test_what_a_line_is_recorded_as_is_read_as_the_line_was(text):
    try:
        spec = parse_prior_line(text)
    except SettingsError:
        return

    assert parse_prior_line(str(spec)) == spec


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("gsm8k:0", '"gsm8k:0": rows is 0, expected a whole number, 1 or more', "rows=100"),
        ("gsm8k:many", 'rows is "many"', "rows=100"),
        ("gsm8k:", 'rows is ""', "rows=100"),
        ("gsm8k:" + "9" * 5000, "expected a whole number", "rows=100"),
        (":5", '":5": the name is missing', "gsm8k:100"),
        ("  # arc", "the name is missing", "gsm8k:100"),
        ("bob's.py", "a quote is not closed", "close it"),
        ("gsm8k scorign=choice", 'scorign = "choice" is not a setting', "did you mean scoring?"),
        ("gsm8k max-new-tokens=5", "is not a setting", "did you mean max_new_tokens?"),
        ("my tasks.py", "expected one of: grader, columns, scoring", "spaces need quotes"),
        ("arc split=test split=train", "split is there twice", "take one split out"),
        ("arc:5 rows=6", "rows is there twice", "take one rows out"),
        ("arc scoring=choise", 'scoring is "choise", expected "choice" or', 'scoring="choice"'),
        ("arc max_new_tokens=0", "max_new_tokens is 0, expected a whole", "max_new_tokens=64"),
        ("arc data_dir=", 'data_dir is "", expected text', 'data_dir="data"'),
        ("arc reward=prob scoring=generate", 'reward is "prob", expected', 'scoring="choice"'),
        ("know match=letters", 'match is "letters", expected "substring" or', 'match="substring"'),
    ],
)
def test_a_line_that_is_wrong_is_refused_with_a_fix(line, message, hint):
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        parse_prior_line(line)

    assert len(caught.value.problems) == 1
    assert hint in caught.value.hint


def test_all_that_is_wrong_with_lines_is_said_at_once():
    with pytest.raises(SettingsError, match="zzz") as caught:
        Prior(tasks=["gsm8k:0 zzz=1 split=dev max_new_tokens=few", "arc", "arc:5"], every=0)

    keys = [problem.keys[0] for problem in caught.value.problems]
    assert keys == ["prior.tasks"] * 5 + ["prior.every"]
    assert '[prior] tasks: "arc:5": the task is there before' in str(caught.value)


def test_a_file_has_a_task_a_line_with_comments_and_blank_lines(tmp_path):
    file = tmp_path / "tasks.txt"
    file.write_bytes(b"\xef\xbb\xbf# keep\r\n\r\ngsm8k:9  split=test  # sums\r\n  arc\r\n#mmlu\r\n")

    assert read(file) == ("gsm8k:9 split=test", "arc")


def test_of_thousands_of_wrong_lines_a_handful_is_said_and_the_rest_counted(tmp_path):
    error = refusal("arc", *(f"task{n}" for n in range(5000)), file=tmp_path / "tasks.txt")

    assert len(error.problems) == 11
    assert "line 12: not looked at, nor is what follows (4,990 lines)" in str(error)


WORDS = ["gsm8k", "arc", ":9", ":", "rows=3", "split=test", "grader=exact", "x.jsonl", "data_dir=."]
WORDS += [
    "scoring=choice",
    "reward=prob",
    "#",
    "'",
    '"',
    " ",
    "\t",
    "\n",
    "\r\n",
    "\0",
    "max_new_tokens=",
]


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=12).map("".join))
def test_a_file_of_any_lines_is_read_or_refused_in_words(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.txt"
    file.write_bytes(text.encode(errors="surrogatepass"))

    tasks, refused = (), str(file)
    try:
        tasks = read(file)
    except RecipeError as error:
        refused = str(error)

    assert Prior(tasks=tasks).tasks == tasks
    assert refused.startswith(str(file))
    assert len(refused) < 20_000


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
    assert [int(re.search(r"line (\d+): ", line)[1]) for line in messages] == [2, 4, 6, 7, 8, 9]
    assert all(line.startswith(f"{file} line ") for line in [*messages, *error.hint.splitlines()])
    assert len(error.hint.splitlines()) == 6


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("gsmk:5", "task 'gsmk' is unknown", "did you mean gsm8k"),
        ("piqa scoring=exact", "scoring is 'exact', expected choice or generate for piqa", None),
        ("arc source=nq-open", "arc has source 'nq-open', expected none", "or take task know"),
        ("arc match=words", "arc has match 'words', expected none", "leave match out"),
        ("know source=arc", "rows have options to choose from", "such as nq-open"),
        ("know reward=prob", "reward is 'prob', expected both or correct", "leave reward out"),
        ("gsm8k reward=prob", "needs options to choose from: gsm8k", "set reward to logprob"),
        ("piqa grader=number", "piqa has its own grader", "leave grader= out"),
        ("my.jsonl", "my.jsonl needs a grader", "such as grader=number"),
        ("no.jsonl", "no.jsonl is not a file, here or beside the list", "did you mean my.jsonl?"),
        ("bad.jsonl grader=number", "bad.jsonl line 1 is", "correct that line"),
    ],
)
def test_a_task_that_is_not_there_or_scored_so_is_an_error_of_its_line(here, line, message, hint):
    own_rows(here / "my.jsonl")
    write(here / "bad.jsonl", "{")

    error = refusal("arc", line, file=here / "tasks.txt")

    assert str(error).startswith(f"{here / 'tasks.txt'} line 2: ")
    assert message in str(error)
    assert hint is None or hint in error.hint


def test_paths_are_those_of_the_current_folder_else_those_beside_the_file(here):
    there = here.parent / "there"
    for file in (here / "both.jsonl", there / "both.jsonl", there / "beside.jsonl"):
        own_rows(file)
    (there / "data").mkdir()
    lines = ("both.jsonl grader=number", "beside.jsonl:1 grader=number", "arc data_dir=data")

    tasks = read(write(there / "tasks.txt", *lines))

    assert tasks == (
        "both.jsonl grader=number",
        f"{there}/beside.jsonl:1 grader=number",
        f"arc data_dir={there}/data",
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.txt", None, "no.txt cannot be read: No such file"),
        ("latin.txt", b"arc\n# caf\xe9\n", "latin.txt line 2 is not UTF-8"),
        ("empty.txt", b"# gsm8k\n   # arc\n\n", "empty.txt has no tasks, expected one a line"),
    ],
)
def test_a_file_without_tasks_or_text_says_what_is_wrong(here, name, content, message):
    if content is not None:
        (here / name).write_bytes(content)

    with pytest.raises(RecipeError, match=f"^{re.escape(message)}") as caught:
        read_priors([name])

    assert caught.value.hint is not None


def test_files_and_tasks_can_be_given_together_and_a_name_is_a_task_first(here):
    write(here / "tasks.txt", "gsm8k:100", "arc")
    write(here / "more", "piqa")
    write(here / "hellaswag", "no task at all")

    assert read_priors(["tasks.txt", "mmlu:7 split=validation", "more", "hellaswag"]) == (
        "gsm8k:100", "arc", "mmlu:7 split=validation", "piqa", "hellaswag",
    )  # fmt: skip


def test_a_task_that_is_given_twice_or_unknown_says_where(here):
    write(here / "tasks.txt", "gsm8k:100", "arc")

    with pytest.raises(SettingsError, match='--prior: "arc:5": the task is there') as caught:
        read_priors(["tasks.txt", "arc:5", "nosuch"])

    assert 'tasks.txt line 2 has "arc"' in str(caught.value)
    assert "--prior: task 'nosuch' is unknown" in str(caught.value)


def test_one_task_asked_by_rows_of_two_sources_is_two_tasks(here):
    lines = ("know:5", "know:5 source=nq-open", "know:5 source=sub/mine.jsonl")
    (here / "sub").mkdir()
    own_rows(here / "sub" / "mine.jsonl")

    specs = [parse_prior_line(line) for line in read_priors(lines)]

    assert [spec.kept_as for spec in specs] == ["know", "know-nq-open", "know-mine"]
    assert [spec.chosen().name for spec in specs] == ["know", "know-nq-open", "know-mine"]
    with pytest.raises(SettingsError, match="the task is there before"):
        read_priors([*lines, "know:7 source=trivia-qa"])


def test_the_path_of_a_source_in_a_file_is_looked_for_beside_it(here):
    (here / "lists").mkdir()
    own_rows(here / "lists" / "mine.jsonl")
    write(here / "lists" / "tasks.txt", "know:5 source=mine.jsonl")

    (line,) = read_priors([str(here / "lists" / "tasks.txt")])

    assert parse_prior_line(line).source == str(here / "lists" / "mine.jsonl")
