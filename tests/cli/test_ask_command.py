"""`esft ask`, as it is typed."""

import json

import pytest
from click.testing import CliRunner
from command import esft
from tiny_models import letters_model, tiny_tokenizer, write_model
from tiny_runs import Notes

from esft.cli import main
from esft.evals.ask import messages_of, open_asked
from esft.tuning.rebuild import RebuildOptions


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a model that answers in letters."""
    folder = tmp_path_factory.mktemp("model")
    return write_model(folder / "letters", letters_model(tiny_tokenizer()))


def typed(*words, text):
    return CliRunner().invoke(main, list(map(str, words)), input=text, env={"COLUMNS": "80"})


def unfolded(text):
    """What stands behind the labels, without the folding."""
    return "".join(line[7:] for line in text.splitlines())


def test_base_and_tuned_stand_under_each_other(made):
    done = esft("ask", made, "Who?", "--tokens", 4)

    assert done.exit_code == 0, done.stderr
    head, *answers = done.stdout.splitlines()
    assert head == f"step 3 of {made}, base model {made.parent / 'base'}"
    assert [line[:7] for line in answers if line[:7].strip()] == ["base   ", "tuned  "]
    assert done.stdout.count("[cut after 4 tokens]") == 2


def test_a_model_answers_by_itself_folded_to_the_terminal(model):
    (reply,) = open_asked(str(model), "last", Notes(), RebuildOptions()).answer(
        "model", [messages_of("Who?")], 40
    )

    done = esft("ask", model, "Who?", "--tokens", 40, width=40)

    _, *lines = done.stdout.splitlines()
    assert unfolded("\n".join(lines)).startswith(reply.text)
    assert lines[0].startswith("model  ")
    assert all(line.startswith(" " * 7) for line in lines[1:])


def test_words_are_folded_and_what_would_steer_the_terminal_is_not_printed(model, monkeypatch):
    text = "one two \x1b[31m" + "word " * 20
    monkeypatch.setattr("esft.rollout.generate.decode", lambda *_: [((5,), True)])
    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.decode", lambda *_, **__: text)

    (model / "q.txt").write_text("Who?\n")
    done = esft("ask", model, "--file", model / "q.txt", width=40)

    assert "\x1b" not in done.stdout
    assert "one two \N{REPLACEMENT CHARACTER}[31mword" in done.stdout
    assert max(map(len, done.stdout.splitlines()[1:])) <= 40


def test_questions_of_a_file_and_as_json_are_answered_alike(made, tmp_path):
    (tmp_path / "q.txt").write_text("Who?\n\nWhat is 1+1?\n")
    words = ("ask", made, "--file", tmp_path / "q.txt", "--tokens", 4)

    told, record = esft(*words).stdout, json.loads(esft(*words, "--json").stdout)

    assert [one["question"] for one in record["answers"]] == ["Who?", "What is 1+1?"]
    assert (record["run"], record["step"]) == (str(made), 3)
    for one in record["answers"]:
        assert f"> {one['question']}\nbase   " in told
        assert set(one) == {"question", "base", "tuned"}
        assert one["base"]["cut"] == (one["base"]["tokens"] == 4)


def test_a_talk_remembers_until_it_is_told_to_forget(model):
    words = ("ask", model, "--tokens", 6)

    done = typed(*words, text="Who?\nAnd then?\n\n/new\nAnd then?\n")

    assert done.exit_code == 0, done.stderr
    _, first, remembered, forgotten = done.stdout.splitlines()
    assert first == esft("ask", model, "Who?", "--tokens", 6).stdout.splitlines()[1]
    assert forgotten == esft("ask", model, "And then?", "--tokens", 6).stdout.splitlines()[1]
    assert remembered != forgotten


def test_ctrl_c_stops_an_answer_and_the_talk_goes_on(model, monkeypatch):
    from esft.evals.ask import Chat

    say = Chat.say

    def stopped(self, text, *others):
        if text == "stop":
            raise KeyboardInterrupt
        return say(self, text, *others)

    monkeypatch.setattr(Chat, "say", stopped)

    done = typed("ask", model, "--tokens", 6, text="Who?\nstop\nAnd then?\n")
    without = typed("ask", model, "--tokens", 6, text="Who?\nAnd then?\n")

    assert done.exit_code == 0
    assert "(stopped; that question is forgotten)" in done.stdout
    assert done.stdout.splitlines()[-1] == without.stdout.splitlines()[-1]


def test_a_question_alone_goes_to_the_newest_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    for question in ("What is it?", "15-15", "你好吗"):
        assert "there is no run under runs/" in esft("ask", question).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hello"], "hello is neither a run nor a model"),
        (["RUN", "what", "is"], "put the question in quotes"),
        (["RUN", "what", "--file", "q.txt"], "put the question in quotes"),
        (["embedded", "--json"], "--json needs a question, or --file"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    done = esft("ask", *words)

    assert done.exit_code == 2
    assert said in done.stderr
