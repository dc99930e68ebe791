import inspect
import math
from dataclasses import replace

import pytest
import torch
from scoring import a_task, change_question, choice_row, question_row
from tiny_models import letters_model, tiny_llama, tiny_tokenizer

from esft.errors import TaskError
from esft.rollout.batches import Batches
from esft.rollout.generate import greedy_answers
from esft.rollout.logprobs import teacher_forced
from esft.rollout.results import RowResult, mean_reward
from esft.rollout.rollout import Rollout
from esft.tasks.task import Grade, Row


def a_rollout(model=None, **settings):
    model = tiny_llama() if model is None else model
    scoring = settings.pop("scoring", "choice")
    return Rollout(model, tiny_tokenizer(), a_task(scoring), **settings)


CHOICES = tuple(choice_row(number, gold=number % 3) for number in range(12))
QUESTIONS = tuple(question_row(number) for number in range(12))


def test_an_option_is_right_by_log_probability_per_character():
    rollout = a_rollout()
    encoded = rollout.encode(CHOICES)
    rollout_logprobs = a_rollout(reward="prob").roll_out(encoded)

    results = rollout.roll_out(encoded)

    assert {result.reward for result in results} <= {0.0, 1.0}
    assert [result.reward == 1.0 for result in results] == [result.correct for result in results]
    # The longest option has the lowest sum of log-probabilities, so the two ways differ.
    assert [r.correct for r in results] != [r.correct_unnormalized for r in results]
    assert all(0 < result.reward < 1 for result in rollout_logprobs)


def test_probabilities_of_the_options_sum_to_one():
    rollout = a_rollout(reward="prob")

    per_gold = [
        rollout.roll_out(rollout.encode(tuple(choice_row(7, gold=gold) for gold in range(3))))
    ]

    assert math.fsum(result.reward for result in per_gold[0]) == pytest.approx(1)


@pytest.mark.parametrize(("scoring", "rows"), [("choice", CHOICES), ("generate", QUESTIONS)])
def test_in_float32_a_split_batch_gives_the_same_results(scoring, rows):
    whole = a_rollout(scoring=scoring, batches=Batches(64))
    expected = whole.roll_out(whole.encode(rows))
    model, calls = tiny_llama(), []
    forward = model.forward

    def cramped(*args, **kwargs):
        calls.append(len(kwargs["input_ids"]))
        if calls[-1] > 5:
            raise torch.OutOfMemoryError("no room")
        return forward(*args, **kwargs)

    model.forward = cramped
    model.forward.__signature__ = inspect.signature(forward)
    split = a_rollout(model, scoring=scoring, batches=Batches(64))

    found = split.roll_out(split.encode(rows))

    assert max(calls) > 5
    assert split.batches.size <= 5
    assert found == expected


def test_the_reward_correct_replaces_the_grader_of_a_generated_answer():
    graded = a_rollout(scoring="generate")
    plain = a_rollout(scoring="generate", reward="correct")

    rewards = [result.reward for result in graded.roll_out(graded.encode(QUESTIONS))]

    assert any(0 < reward < 1 for reward in rewards)
    assert {r.reward for r in plain.roll_out(plain.encode(QUESTIONS))} <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("scoring", "rows"), [("choice", CHOICES), ("generate", QUESTIONS), ("exact", QUESTIONS)]
)
def test_an_overflowing_model_gives_nan_and_nothing_correct(scoring, rows):
    model = tiny_llama()
    model.model.norm.weight.fill_(float("nan"))
    rollout = a_rollout(model, scoring=scoring)

    results = rollout.roll_out(rollout.encode(rows))

    assert all(math.isnan(result.reward) and not result.correct for result in results)


@pytest.mark.parametrize(
    ("settings", "row", "context"),
    [
        ({"scoring": "choice"}, CHOICES[0], 24),
        ({"scoring": "generate"}, QUESTIONS[0], 24),
        (
            {"scoring": "generate", "reward": "logprob"},
            change_question(QUESTIONS[0], reference="word " * 40),
            80,
        ),
    ],
)
def test_a_row_longer_than_the_context_is_refused_by_name(settings, row, context):
    rollout = a_rollout(tiny_llama(max_position_embeddings=context), **settings)

    with pytest.raises(TaskError, match=rf"row-0 of made-up needs \d+ tokens.*at most {context}"):
        rollout.encode([row])


@pytest.mark.parametrize(("scoring", "rows"), [("choice", CHOICES), ("generate", QUESTIONS)])
def test_the_reward_logprob_is_the_mean_over_the_references_tokens(scoring, rows):
    rollout = a_rollout(scoring=scoring, reward="logprob")
    encoded = rollout.encode(rows)

    rewards = [result.reward for result in rollout.roll_out(encoded)]

    references = [one.references[0] for one in encoded]
    forced = teacher_forced(tiny_llama(), references, Batches())
    means = [f.logprob / len(r.targets) for f, r in zip(forced, references, strict=True)]
    assert rewards == pytest.approx(means, abs=1e-5)
    assert all(reward < 0 for reward in rewards)


def test_the_reference_of_a_row_with_options_is_the_right_one():
    encoded = a_rollout(reward="logprob").encode(CHOICES)

    assert all(one.references == (one.options[one.row.gold],) for one in encoded)


@pytest.mark.parametrize(("scoring", "rows"), [("choice", CHOICES), ("generate", QUESTIONS)])
def test_only_an_evaluation_says_what_is_right_where_the_reward_is_logprob(scoring, rows):
    rollout, plain = a_rollout(scoring=scoring, reward="logprob"), a_rollout(scoring=scoring)
    encoded = rollout.encode(rows)

    rolled_out, evaluated = rollout.roll_out(encoded), rollout.evaluate(encoded)

    assert {result.correct for result in rolled_out} == {None}
    assert [result.reward for result in evaluated] == [result.reward for result in rolled_out]
    expected = plain.evaluate(plain.encode(rows))
    assert [(result.correct, result.answers) for result in evaluated] == [
        (result.correct, result.answers) for result in expected
    ]


def answered_in_letters(model, tokenizer, rows):
    """The rows with the model's own greedy answers as references, every other one misspelt."""
    generated = Rollout(model, tokenizer, a_task("generate"), max_new_tokens=3)
    answers = [each.answers[0] for each in generated.roll_out(generated.encode(rows))]
    spelt = [text if i % 2 else f"{text[:-1]}!" for i, text in enumerate(answers)]
    return tuple(
        change_question(row, reference=text) for row, text in zip(rows, spelt, strict=True)
    )


@pytest.mark.parametrize("reward", [None, "correct", "logprob"])
def test_scoring_exact_says_what_a_greedy_answer_would_be(reward):
    tokenizer = tiny_tokenizer()
    model = letters_model(tokenizer)
    model.generation_config.eos_token_id = [0]  # no token of a turn's end is asked for
    rows = answered_in_letters(model, tokenizer, QUESTIONS)
    rollout = Rollout(model, tokenizer, a_task(), scoring="exact", reward=reward)
    encoded = rollout.encode(rows)

    results = rollout.roll_out(encoded)

    assert [result.correct for result in results] == [bool(i % 2) for i in range(12)]
    assert all(
        result.answers == (row.questions[0].reference,)
        for result, row in zip(results, rows, strict=True)
        if result.correct
    )
    assert rollout.evaluate(encoded) == results
    if reward == "logprob":
        dense = Rollout(model, tokenizer, a_task("generate"), reward="logprob")
        expected = [each.reward for each in dense.roll_out(dense.encode(rows))]
        assert [result.reward for result in results] == pytest.approx(expected, abs=1e-5)
    else:
        assert [result.reward for result in results] == [float(i % 2) for i in range(12)]


def pairs_of(rows):
    """Rows of two questions each."""
    return tuple(
        Row(id=f"{one.id}+{other.id}", questions=(*one.questions, *other.questions), answer="e")
        for one, other in zip(rows[::2], rows[1::2], strict=True)
    )


def difference(one, other):
    """Some number that depends on both texts and on which is which."""
    return sum(map(ord, one)) - sum(map(ord, other))


def test_a_row_of_two_questions_is_graded_on_both_answers_with_their_openings():
    alone, opened = (
        a_rollout(scoring="generate"),
        tuple(change_question(row, opening="<think>") for row in QUESTIONS),
    )
    answers = [result.answers[0] for result in alone.roll_out(alone.encode(opened))]
    task = replace(
        a_task("generate"),
        grade=lambda row, answers: Grade(reward=difference(*answers), correct=len(answers) == 2),
    )
    together = Rollout(tiny_llama(), tiny_tokenizer(), task, batches=Batches(5))

    encoded = together.encode(pairs_of(opened))
    results = together.roll_out([encoded[i] for i in (5, 0, 3)])

    assert [list(result.answers) for result in results] == [
        answers[2 * i : 2 * i + 2] for i in (5, 0, 3)
    ]
    assert [result.reward for result in results] == [
        difference(*answers[2 * i : 2 * i + 2]) for i in (5, 0, 3)
    ]
    assert len({result.reward for result in results}) > 1
    assert all(result.correct for result in results)
    assert all(text.startswith("<think>") for text in answers)


@pytest.mark.parametrize("reward", [None, "logprob"])
def test_both_references_of_two_questions_count_token_by_token(reward):
    tokenizer = tiny_tokenizer()
    model = letters_model(tokenizer)
    model.generation_config.eos_token_id = [0]
    rows = answered_in_letters(model, tokenizer, QUESTIONS)
    rows = (*rows[:4], rows[5], rows[7])  # wrong and right, wrong and right, right and right
    rollout = Rollout(model, tokenizer, a_task(), scoring="exact", reward=reward)
    encoded = rollout.encode(pairs_of(rows))
    pairs = [one.references for one in encoded]

    results = rollout.roll_out(encoded)

    assert [result.correct for result in results] == [False, False, True]
    assert rollout.evaluate(encoded) == results
    if reward == "logprob":
        sums = [sum(f.logprob for f in teacher_forced(model, pair, Batches())) for pair in pairs]
        counts = [sum(len(each.targets) for each in pair) for pair in pairs]
        means = [total / count for total, count in zip(sums, counts, strict=True)]
        assert [result.reward for result in results] == pytest.approx(means, abs=1e-5)


def test_rewards_are_averaged_in_row_order():
    rewards = [1e16, 1.0, -1e16, 1.0]
    results = [RowResult(reward=reward, correct=False) for reward in rewards]

    assert mean_reward(results) == (((1e16 + 1.0) - 1e16) + 1.0) / 4


@pytest.mark.parametrize(("size", "cap"), [(1, 9), (5, 150), (16, 9), (16, 2), (3, 1)])
def test_filling_a_batch_takes_what_it_can_take_at_most(size, cap):
    model, shapes, held = tiny_llama(), [], []
    rollout = a_rollout(model, scoring="generate", max_new_tokens=cap)
    encoded = rollout.encode(QUESTIONS[:3])
    prompts = [prompt for one in encoded for prompt in one.prompts]
    firsts = greedy_answers(model, rollout.tokenizer, prompts, 1, Batches())
    # Every answer would end with its first token.
    model.generation_config.eos_token_id = [answer.tokens[0] for answer in firsts]
    forward = model.forward

    def watched(*args, **kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))
        held.append(kwargs["cache"].get_seq_length())
        return forward(*args, **kwargs)

    model.forward = watched
    model.forward.__signature__ = inspect.signature(forward)

    rollout.fill(encoded, Batches(size))

    # What all prompts begin with may be read by itself.
    made = min(cap, 3) - 1  # of all tokens of an answer, read to make the last
    *beginning, (rows, width) = shapes[: len(shapes) - made]
    longest = max(map(len, prompts))
    assert rows == size
    assert width + sum(read for _, read in beginning) == longest
    assert shapes[len(shapes) - made :] == [(size, 1)] * made
    assert held[-1] == longest + cap - 2 or cap == 1


@pytest.mark.parametrize("scoring", ["choice", "exact"])
def test_filling_a_batch_of_forced_continuations_has_as_many_as_it_says(scoring):
    model, rows = tiny_llama(), []
    forward = model.forward
    model.forward = lambda *args, **kwargs: (
        rows.append(len(kwargs["input_ids"])) or forward(*args, **kwargs)
    )
    rollout = a_rollout(model, scoring=scoring)

    rollout.fill(rollout.encode(CHOICES[:2]), Batches(7))

    assert max(rows) == 7
