"""What the models of a run answer: what was measured, in a talk too, and nothing of it stays."""

import shutil

import pytest
import torch
from tiny_models import letters_model, tiny_llama, tiny_tokenizer, write_model
from tiny_runs import Notes, a_recipe, never

from esft.engine.weights import identity
from esft.errors import EsftError, ModelError, RecipeError, TaskError
from esft.evals.ask import Chat, messages_of, open_asked, questions_in
from esft.export.journal import export_journal
from esft.runs.records import evaluation, scores
from esft.tuning.rebuild import RebuildOptions, find_source
from esft.tuning.start import run_tuning
from esft.tuning.tasks import task_and_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three steps of a model that answers in letters, in batches of two."""
    folder = tmp_path_factory.mktemp("asked")
    model = letters_model(tiny_tokenizer())
    task = {"batch": 2, "reward": "logprob"}
    run_tuning(a_recipe(folder, model=model, task=task, alpha=0.1), Notes(), never)
    return folder / "run"


def opened(name, at="last", watcher=None, **options):
    return open_asked(str(name), at, watcher or Notes(), RebuildOptions(**options))


def by_itself(folder, **tokenizer):
    model = tiny_llama(max_position_embeddings=96, tied=False)
    return opened(write_model(folder / "model", model, tiny_tokenizer(**tokenizer)))


def text_of(asked, *said):
    """The answer to the last of some messages, the user's and the model's in turn."""
    roles = ("user", "assistant") * len(said)
    chat = tuple({"role": role, "content": text} for role, text in zip(roles, said, strict=False))
    return asked.answer(asked.voices[-1], [chat], 8)[0].text


def test_base_and_tuned_answers_are_those_that_were_measured(run):
    source = find_source(str(run))
    rows = task_and_rows(source.recipe.task)[1].holdout
    chats = [row.questions[0].messages for row in rows]

    asked = opened(run)
    said = {voice: asked.answer(voice, chats, 6) for voice in asked.voices}

    recorded = {score.step: evaluation(run, score) for score in scores(run)}
    for voice, step in (("base", 0), ("tuned", 3)):
        answers = [result.answers[0] for result in recorded[step].results]
        assert [reply.text for reply in said[voice]] == answers
    assert asked.batch == 2  # on which bits depend in half precision
    assert said["base"] != said["tuned"]


def test_asking_the_base_leaves_the_tuned_weights_as_they_were(run):
    asked = opened(run)
    before = identity(asked.loaded.model)

    asked.answer("base", [messages_of("Who?")], 4)

    assert identity(asked.loaded.model) == before == find_source(str(run)).weights_of(3)


def test_another_step_answers_otherwise_and_so_does_a_journal_alone(run, tmp_path):
    mailed = tmp_path / "my.jsonl"
    export_journal(find_source(str(run)), "1", mailed, Notes(), RebuildOptions())

    first, of_journal, last = opened(run, "1"), opened(mailed), opened(run)

    assert text_of(first, "Who?") == text_of(of_journal, "Who?") != text_of(last, "Who?")
    assert (first.step, of_journal.step, last.step) == (1, 1, 3)


def test_the_saved_model_answers_alone_where_the_base_is_gone(run, tmp_path):
    copied, notes = shutil.copytree(run, tmp_path / "run"), Notes()
    recipe = copied / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(str(run.parent), str(tmp_path)))

    alone = opened(copied, watcher=notes)

    assert alone.voices == ("tuned",)
    assert text_of(alone, "Who?") == text_of(opened(run), "Who?")
    assert notes.notices[0].endswith("so there are no answers of the base model")
    with pytest.raises(ModelError, match="no such file"):
        opened(copied, "2")
    shutil.rmtree(copied / "model")
    with pytest.raises(ModelError, match="no such file"):
        opened(copied)


def test_an_answer_comes_in_pieces_that_are_its_text(run):
    asked, pieces = opened(run), []

    reply, _ = Chat(asked=asked, voice="tuned").say("Who?", 12, pieces.append)

    assert "".join(pieces) == reply.text != ""
    assert (reply.tokens, reply.cut, reply.finite) == (12, True, True)


def test_a_talk_goes_on_from_the_models_own_answers(run):
    asked = opened(run)

    for chat in asked.chats():
        first, chat = chat.say("Who?", 8)
        second, chat = chat.say("And then?", 8)
        roles = [message["role"] for message in chat.said]
        texts = [message["content"] for message in chat.said]

        assert roles == ["user", "assistant"] * 2
        assert texts == ["Who?", first.text, "And then?", second.text]
        (alone,) = asked.answer(chat.voice, [chat.said[:3]], 8)
        assert second == alone
    assert text_of(asked, "Who?", first.text, "And then?") != text_of(asked, "And then?")


def test_a_model_without_a_template_is_asked_each_question_by_itself(tmp_path):
    (chat,) = by_itself(tmp_path, chat_template=False).chats()

    first, chat = chat.say("Who?", 8)
    _, chat = chat.say("And then?", 8)
    again, _ = chat.say("Who?", 8)

    assert chat.said == ()
    assert again == first


def test_what_was_said_first_is_forgotten_where_the_context_is_full(tmp_path):
    asked = by_itself(tmp_path)
    (chat,) = asked.chats()

    _, chat = chat.say("a" * 30, 4)
    _, chat = chat.say("b" * 30, 4)

    assert [message["content"][:1] for message in chat.said[::2]] == ["b"]
    with pytest.raises(TaskError, match=r"the question has \d+ tokens, expected fewer than 96"):
        chat.say("c" * 90, 4)


def test_an_answer_ends_with_the_context_and_leaves_others_their_length(tmp_path):
    asked = by_itself(tmp_path)
    asked.loaded.model.generation_config.eos_token_id = []  # nothing ends an answer

    short, long = asked.answer("model", [messages_of("a"), messages_of("b" * 60)], 50)

    assert (short.tokens, short.cut) == (50, True)
    assert long.tokens < 20


def test_a_model_that_overflows_is_said_to(tmp_path):
    asked = by_itself(tmp_path)
    torch.nn.init.constant_(asked.loaded.model.lm_head.weight, torch.nan)

    (reply,) = asked.answer("model", [messages_of("Who?")], 2)

    assert not reply.finite


def test_a_model_by_itself_has_no_steps(tmp_path):
    with pytest.raises(RecipeError, match=r"--at is 2, expected none: .* is a model by itself"):
        opened(write_model(tmp_path / "model"), "2")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\n \n", "has no questions"), (b"\xff", "it is not UTF-8"), (None, "No such file")],
)
def test_a_file_without_questions_is_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "q.txt").write_bytes(content)

    with pytest.raises(EsftError, match=message):
        questions_in(tmp_path / "q.txt")
