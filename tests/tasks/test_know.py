import json

import pytest

from esft.errors import TaskError
from esft.tasks.know import claim_of
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split
from esft.tasks.task import Row, ask
from tests.tasks.test_every_task import FILES, small_rows


def a_row(answer="Oslo", *accepted, words=("Yes", "No")):
    claim = ask("Do you know?")
    object.__setattr__(claim, "words", words)
    return Row(id="row", questions=(ask("Where?"), claim), answer=answer, accepted=accepted)


@pytest.mark.parametrize(
    ("answer", "claim"),
    [
        ("Yes", "yes"),
        ("  **yes**, I do.", "yes"),
        ("NO.", "no"),
        ("No, I have never heard of it", "no"),
        ("Yesterday", "unclear"),
        ("", "unclear"),
        ("I know it: yes", "unclear"),
        ("Yes or No", "unclear"),
        ("No. Yes.", "unclear"),
        ("Norway", "unclear"),
    ],
)
def test_a_claim_is_the_first_word_unless_the_other_is_there_too(answer, claim):
    assert claim_of(answer) == claim


@pytest.mark.parametrize(
    ("answers", "both", "correct", "align"),
    [
        (("Oslo", "Yes"), 2, 1, 1),
        (("Oslo", "No"), 1, 1, 0),
        (("Bergen", "No"), 1, 0, 1),
        (("Bergen", "Yes"), 0, 0, 0),
        (("Oslo", "Maybe"), 1, 1, 0),
        (("Bergen", "Yes and no"), 0, 0, 0),
    ],
)
def test_rewards_are_those_of_right_and_of_knowing_whether(answers, both, correct, align):
    grade = get_task("know").grade(a_row(), answers)

    rewards = [grade.reward_of(name) for name in (None, "both", "correct", "align")]
    assert rewards == [both, both, correct, align]


@pytest.mark.parametrize(
    ("answer", "p", "reward"),
    [("Oslo", 1.0, 2.0), ("Oslo", 0.75, 1.9375), ("Oslo", 0.0, 1.0), ("Bergen", 0.5, 0.75)],
)
def test_confidence_is_paid_by_the_square_of_what_it_is_off(answer, p, reward):
    grade = get_task("know").grade(a_row(), (answer, "Yes"), p)

    assert grade.reward_of("confidence") == pytest.approx(reward)
    assert grade.knowing.p_yes == p


def test_a_right_answer_is_found_within_words_or_as_whole_words():
    row, answers = a_row("NO", "none"), ("Norway", "No")

    grades = [get_task("know", match=match).grade(row, answers) for match in (None, "words")]

    assert [grade.correct for grade in grades] == [True, False]
    assert [grade.reward for grade in grades] == [1, 1]
    assert {(grade.knowing.substring, grade.knowing.words) for grade in grades} == {(True, False)}


@pytest.mark.parametrize("name", ["trivia-qa", "nq-open"])
def test_each_row_of_a_source_is_asked_twice_and_never_in_one_chat(name):
    task, rows = get_task("know", source=name), small_rows(name)

    known = read_split(task, "train", FILES)

    assert [row.id for row in known] == [row.id for row in rows][: len(known)]
    for row, source in zip(known, rows, strict=False):
        (message,) = source.questions[0].messages
        text = message["content"].partition("\n\n")[0]
        direct, claim = row.questions
        assert all(text in one.messages[0]["content"] for one in row.questions)
        assert len(direct.messages) == len(claim.messages) == 1
        assert (direct.words, claim.words) == ((), ("Yes", "No"))
        assert (row.answer, row.accepted) == (source.answer, source.accepted)
        assert direct.reference == row.answer
        assert "in a few words" not in claim.messages[0]["content"]


def test_names_tell_sources_apart():
    names = [get_task("know", source=source).name for source in (None, "trivia-qa", "nq-open")]

    assert names == ["know", "know", "know-nq-open"]


def test_the_embedded_model_is_asked_in_its_own_few_characters():
    task = get_task("know", source="subtract-two-digits")

    row = read_split(task, "test")[0]

    asked = row.questions[0].messages[0]["content"]
    assert row.questions[1].messages[0]["content"] == f"know {asked}"
    assert row.questions[1].words == ("y", "n")
    assert task.grade(row, (row.answer, "y")).reward == 2


def test_rows_of_ones_own_are_a_source(tmp_path):
    file = tmp_path / "mine.jsonl"
    line = {"q": "Sky?", "answer": ["blue", "azure"], "id": 7}
    file.write_text(json.dumps(line))

    task = get_task("know", columns="prompt=q", source=str(file))

    (row,) = read_split(task, "train")
    assert (task.name, row.id, row.accepted) == ("know-mine", "7", ("azure",))
    assert task.grade(row, ("A deep azure.", "Yes")).reward == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("arc", "source arc, whose rows have options to choose from, expected one whose rows"),
        ("know", "source 'know', expected another task"),
        ("nothing", "task 'nothing' is unknown"),
    ],
)
def test_a_source_without_right_answers_is_refused(source, message):
    with pytest.raises(TaskError, match=message) as caught:
        get_task("know", source=source)

    assert caught.value.hint


def test_rows_without_a_right_answer_are_refused_by_their_place(tmp_path):
    program = tmp_path / "mine.py"
    program.write_text("def rows(): return [{'prompt': 'Why?'}]\ndef reward(row, answer): return 0")
    task = get_task("know", source=str(program))

    with pytest.raises(TaskError, match=r"mine\.py, row 1: the row has no right answer") as caught:
        read_split(task, "train")

    assert "such as nq-open" in caught.value.hint


def test_other_tasks_have_no_source_and_know_has_no_grader():
    with pytest.raises(TaskError, match="arc has source 'nq-open', expected none"):
        get_task("arc", source="nq-open")
    with pytest.raises(TaskError, match="arc has match 'words', expected none"):
        get_task("arc", match="words")
    with pytest.raises(TaskError, match="know has grader 'exact'"):
        get_task("know", "exact")


@pytest.mark.parametrize(("name", "reward"), [("know", "logprob"), ("trivia-qa", "align")])
def test_a_reward_of_another_task_is_refused(name, reward):
    with pytest.raises(TaskError, match=f"reward is '{reward}', expected .* for {name}"):
        get_task(name).choose_scoring(None, reward)
