import pytest

from esft.errors import TaskError
from esft.tasks.own import hub_own_task, own_task
from esft.tasks.rows import read_split, row_source
from esft.tasks.words import GRADERS

from .some_rows import write_rows


def task_of(folder, rows, grader="exact"):
    return own_task(write_rows(folder, "my", rows), grader)


def read_row(folder, grader="exact", **columns):
    return read_split(task_of(folder, [columns], grader), "train")[0]


def asking(role, content, **columns):
    return {"messages": [{"role": role, "content": content}], "answer": "5", **columns}


def choosing(**changes):
    row = {"prompt": "Sky?", "choices": ["green", "blue", "red"], "answer": "blue"}
    return {**row, **changes}


def test_a_row_asks_its_prompt_as_it_is(tmp_path):
    row = read_row(tmp_path, prompt="What is 2 + 3?\n", answer="5")

    assert row.questions[0].messages == ({"role": "user", "content": "What is 2 + 3?\n"},)
    assert (row.answer, row.accepted, row.questions[0].reference) == ("5", (), "5")
    assert (row.options, row.gold) == ((), None)
    assert row.id.startswith("my-")
    assert len(row.id) == len("my-") + 12


def test_messages_are_the_chat(tmp_path):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi", "name": "left out"},
        {"role": "user", "content": "2 + 3?"},
    ]

    row = read_row(tmp_path, messages=chat, prompt=None, answer=5, id=7)

    assert row.questions[0].messages == (*chat[:2], {"role": "assistant", "content": "Hi"}, chat[3])
    assert row.id == "7"


def test_the_last_message_of_the_assistant_is_the_answer_where_there_is_no_other(tmp_path):
    chat = asking("assistant", "5", answer=None)["messages"]
    asked = {"role": "user", "content": "2 + 3?"}

    row = read_row(tmp_path, "number", messages=[asked, *chat], id=1)

    assert row.questions[0].messages == (asked,)
    assert (row.answer, row.questions[0].reference) == ("5", "5")


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ("five", ["five"]),
        (5, ["5"]),
        (-0.5, ["-0.5"]),
        (1e-05, ["0.00001"]),
        (["five", 5, 5.5], ["five", "5", "5.5"]),
    ],
)
def test_answers_are_texts_numbers_or_lists_of_them(tmp_path, answer, texts):
    row = read_row(tmp_path, prompt="Q?", answer=answer)

    assert [row.answer, *row.accepted] == texts
    assert row.questions[0].reference == texts[0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"answer": "5"}, "column prompt is missing, the row has: answer"),
        ({"prompt": 3, "answer": "5"}, "column prompt is 3, expected a text"),
        ({"prompt": "Q?"}, "column answer is missing, the row has: prompt"),
        ({"prompt": "Q?", "answer": True}, "column answer is True, expected a text, a number, or"),
        ({"prompt": "Q?", "answer": ["5", None]}, r"answer is \['5', None\], expected a text"),
        ({"prompt": "Q?", "answer": float("nan")}, "column answer is nan, expected a text"),
        ({"prompt": "Q?", "answer": "5", "id": 0.5}, "column id is 0.5, expected a text or a"),
        ({"messages": [], "answer": "5"}, r"column messages is \[\], expected a last message"),
        ({"messages": ["Q?"], "answer": "5"}, "column messages is .*, expected a list of objects"),
        (asking("tool", "x"), r"column messages is .*, expected .* a role \(system, user, assist"),
        (asking("user", ""), "column messages is .*, expected .* a content that is not empty"),
        (asking("assistant", "x"), r"column messages is .*, expected a last message of the user"),
        (asking("system", "x"), "column messages is .*, expected a last message of the user"),
        (asking("user", "x", prompt="Q?"), "expected nothing in a row that has a prompt too"),
    ],
)
def test_a_wrong_row_is_refused_with_file_line_and_column(tmp_path, columns, message):
    task = task_of(tmp_path, [{"prompt": "One?", "answer": "1"}, columns])

    with pytest.raises(TaskError, match=rf"my\.jsonl line 2: .*{message}") as caught:
        read_split(task, "train")

    assert caught.value.hint.endswith("correct the row, or correct the file")


@pytest.mark.parametrize(
    ("grader", "answer", "text"),
    [("exact", "Five", "five"), ("contains", "five", "It is five."), ("number", 5, "2 + 3 = 5.0")],
)
def test_answers_are_graded_by_the_named_grader(tmp_path, grader, answer, text):
    task = task_of(tmp_path, [{"prompt": "Q?", "answer": answer}], grader)
    row = read_split(task, "train")[0]

    assert task.grade(row, [text]).correct
    assert not task.grade(row, ["6"]).correct
    assert (task.scoring, task.scorings) == ("generate", ("generate",))


@pytest.mark.parametrize("answer", ["blue", "B", 1])
def test_the_right_choice_is_a_text_a_letter_or_an_index(tmp_path, answer):
    task = task_of(tmp_path, [choosing(answer=answer)], None)
    row = read_split(task, "train")[0]

    assert (task.scoring, task.scorings) == ("choice", ("choice", "generate"))
    assert task.grade(row, ["The answer is B."]).correct
    assert not task.grade(row, ["A or B"]).correct
    assert row.gold == 1
    assert (row.answer, row.questions[0].reference) == ("B", "B")
    assert row.questions[0].messages[0]["content"] == (
        "Sky?\n\nA. green\nB. blue\nC. red\n\nReply with the letter of the right answer alone."
    )
    assert {option.context for option in row.options} == {"Question: Sky?\nAnswer:"}
    assert [option.continuation for option in row.options] == [" green", " blue", " red"]


def test_a_choice_with_messages_lists_the_options_in_the_last_one(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sky?"}]

    row = read_row(tmp_path, "choice", messages=chat, choices=["green", "blue"], answer="A")

    assert row.questions[0].messages[0] == {"role": "system", "content": "Be brief."}
    assert row.questions[0].messages[1]["content"].startswith("Sky?\n\nA. green\nB. blue\n")
    assert row.options[0].context == "Question: Be brief.\n\nSky?\nAnswer:"
    # A text of a choice goes before a letter.
    assert read_row(tmp_path, None, **choosing(choices=["B", "A"], answer="A")).gold == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choices": ["blue"]}, r"column choices is \['blue'\], expected 2 to 26 choices"),
        ({"choices": ["blue", "blue"]}, "column choices is .*, expected 2 to 26 choices, all diff"),
        ({"choices": [f"c{n}" for n in range(27)]}, "column choices is .*, expected 2 to 26"),
        ({"choices": ["blue", 3]}, r"column choices is \['blue', 3\], expected a list of texts"),
        ({"answer": "D"}, "column answer is 'D', expected one of the choices, a letter A to C"),
        ({"answer": 3}, "column answer is 3, expected one of the choices"),
        ({"answer": True}, "column answer is True, expected one of the choices"),
        (
            {"choices": ["1", "2", "3"], "answer": 2},
            "column answer is 2, expected a text or a letter: 2 is the index of '3', and a choice",
        ),
    ],
)
def test_wrong_choices_are_refused(tmp_path, changes, message):
    with pytest.raises(TaskError, match=rf"my\.jsonl line 1: {message}"):
        read_row(tmp_path, None, **choosing(**changes))


@pytest.mark.parametrize(
    ("rows", "grader", "message"),
    [
        ([{"prompt": "Q?", "answer": ["5", "five"]}], "number", "line 1: .* a number, for grader"),
        ([choosing()], "number", r"line 1: column choices is .*, expected none with grader number"),
        ([choosing(), {"prompt": "Q?", "answer": "5"}], None, "line 2: column choices is missing"),
        ([{"prompt": "Q?", "answer": "5"}], "choice", "line 1: column choices is missing"),
    ],
)
def test_rows_that_the_grader_is_not_for_are_refused_by_line(tmp_path, rows, grader, message):
    with pytest.raises(TaskError, match=rf"my\.jsonl {message}"):
        read_split(task_of(tmp_path, rows, grader), "train")


@pytest.mark.parametrize(("grader", "has"), [(None, "needs a grader"), ("f1", "has grader 'f1'")])
def test_rows_without_choices_need_one_of_the_graders(tmp_path, grader, has):
    with pytest.raises(TaskError, match=rf"my\.jsonl {has}, expected one of: exact") as caught:
        task_of(tmp_path, [{"prompt": "Q?", "answer": "5"}], grader)

    named = [f"{name} ({named.does})" for name, named in GRADERS.items()]
    assert all(name in str(caught.value) for name in named)


def test_columns_are_taken_under_the_names_given_and_no_other_goes_by_ours(tmp_path):
    raw = {"ask": {"text": "Sky?"}, "label": "B", "options": ["red", "blue"], "messages": []}
    path = write_rows(tmp_path, "my", [{**raw, "part": "test"}, {**raw, "part": "train"}])

    named = "prompt=ask.text, answer=label, choices=options, split=part"
    task = own_task(path, None, named)
    row = read_split(task, "test")[0]

    assert row.questions[0].messages[0]["content"].startswith("Sky?\n\nA. red\nB. blue")
    assert row.gold == 1
    assert read_split(own_task(path, "exact", "prompt=part,answer=label"), "train")[0].answer == "B"
    assert task.size == "1 train, 1 test"
    with pytest.raises(TaskError, match="column lable is missing, the row has: ask") as caught:
        read_split(own_task(path, "choice", named.replace("label", "lable")), "train")
    assert caught.value.hint == "did you mean label?"


def test_a_row_without_a_prompt_names_the_columns_to_take(tmp_path):
    with pytest.raises(TaskError, match="line 1: column prompt is missing, the row has: Que") as e:
        read_row(tmp_path, Question="2 + 3?", output="5")

    assert e.value.hint.endswith("--columns prompt=Question,answer=output")
    with pytest.raises(TaskError, match="column answer is missing, the row has: prompt, la") as e:
        read_row(tmp_path, prompt="2 + 3?", label="5")
    assert e.value.hint.endswith("--columns answer=label")


@pytest.mark.parametrize("text", ["prompt", "prompt=", "ask=prompt", "prompt=a,prompt=b", ""])
def test_columns_of_another_form_are_refused(tmp_path, text):
    with pytest.raises(TaskError, match="expected pairs of a column of ours") as caught:
        own_task(write_rows(tmp_path, "my", [{"prompt": "Q?", "answer": 1}]), "exact", text)

    assert caught.value.hint == "for example --columns prompt=question,answer=label"


def test_a_split_column_makes_the_splits(tmp_path):
    names = ["train", "test", "validation", "train"]
    rows = [{"prompt": f"Q{n}?", "answer": n, "split": name} for n, name in enumerate(names)]
    task = task_of(tmp_path, rows)

    answers = {split: [row.answer for row in read_split(task, split)] for split in set(names)}

    assert answers == {"train": ["0", "3"], "validation": ["2"], "test": ["1"]}
    assert task.size == "2 train, 1 validation, 1 test"


def test_without_a_split_column_all_rows_are_train_rows(tmp_path):
    task = task_of(tmp_path, [{"prompt": f"Q{n}?", "answer": n, "split": None} for n in range(3)])

    assert [row.answer for row in read_split(task, "train")] == ["0", "1", "2"]
    with pytest.raises(TaskError, match=r"my\.jsonl has no split test, it has: train"):
        read_split(task, "test")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["train", "dev"], "line 2: column split is 'dev', expected one of train, validation, te"),
        (["train", ["train"]], r"line 2: column split is \['train'\], expected one of train"),
        (["train", None], r"line 2 has no split, but \S+my\.jsonl line 1 has;"),
        ([None, "train"], r"line 1 has no split, but \S+my\.jsonl line 2 has;"),
    ],
)
def test_a_wrong_split_is_refused_by_line(tmp_path, splits, message):
    rows = [{"prompt": "Q?", "answer": 1, "split": split} for split in splits]

    with pytest.raises(TaskError, match=rf"my\.jsonl {message}"):
        task_of(tmp_path, rows)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my.jsonl", "my.jsonl cannot be read: No such file or directory"),
        ("my.py", "my.py has grader 'exact', expected none: a program grades with its"),
        ("no/my.csv", "my.csv cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_no_task_is_refused(tmp_path, name, message):
    with pytest.raises(TaskError, match=message):
        own_task(tmp_path / name, "exact")


HUB_ROWS = {"q": "Sky?", "o": {"text": ["red", "blue"]}, "a": "B"}
HUB_COLUMNS = "prompt=q,choices=o.text,answer=a"


@pytest.fixture
def hub(monkeypatch):
    """Put splits in the place of a data set of the hub; return what was asked for."""
    asked = []

    def install(**splits):
        monkeypatch.setattr("esft.hub.is_reachable", lambda: True)
        monkeypatch.setattr(
            "datasets.load_dataset", lambda *args, **_: asked.append(args) or splits
        )
        return asked

    return install


def test_a_data_set_of_the_hub_is_a_task_with_its_splits(hub):
    unanswered = HUB_ROWS | {"a": ""}
    asked = hub(train=[HUB_ROWS], validation=[HUB_ROWS], test=[unanswered])

    task = hub_own_task("hub:org/My_set:v1", None, HUB_COLUMNS)
    row = read_split(task, "train")[0]

    assert asked == [("org/My_set", "v1")]
    assert (task.name, task.scoring, row.gold) == ("org-my-set-v1", "choice", 1)
    assert row.id.startswith("org-my-set-v1-")
    assert row_source(task).has("validation")
    assert not row_source(task).has("test")  # without right answers


def test_one_split_alone_is_train_and_a_wrong_row_is_named(hub):
    hub(default=[HUB_ROWS, HUB_ROWS | {"a": "C"}])
    task = hub_own_task("hub:org/set", None, HUB_COLUMNS)

    with pytest.raises(TaskError, match="org/set, split train, row 2: column answer is 'C'"):
        read_split(task, "train")


@pytest.mark.parametrize(
    ("name", "message"), [("hub:", "names no data set"), ("hub:a/b", "a/b needs a grader")]
)
def test_a_data_set_without_a_name_or_a_grader_is_refused(name, message):
    with pytest.raises(TaskError, match=message):
        hub_own_task(name, None)
