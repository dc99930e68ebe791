import inspect
import math

import pytest
import torch
from scoring import a_task, choice_row, question_row
from tiny_models import tiny_llama, tiny_tokenizer

from esft.batches import Batches
from esft.errors import TaskError
from esft.rollout import Rollout, RowResult, mean_reward


def a_rollout(model=None, **settings):
    model = tiny_llama() if model is None else model
    scoring = settings.pop("scoring", "choice")
    return Rollout(model, tiny_tokenizer(), a_task(scoring), **settings)


CHOICES = tuple(choice_row(number, gold=number % 3) for number in range(12))
QUESTIONS = tuple(question_row(number) for number in range(12))


def test_an_option_is_right_by_log_probability_per_character():
    rollout = a_rollout()
    prepared = rollout.prepare(CHOICES)
    rollout_logprobs = a_rollout(reward="prob").score(prepared)

    results = rollout.score(prepared)

    assert {result.reward for result in results} <= {0.0, 1.0}
    assert [result.reward == 1.0 for result in results] == [result.correct for result in results]
    # The longest option has the lowest sum of log-probabilities, so the two ways differ.
    assert [r.correct for r in results] != [r.correct_unnormalized for r in results]
    assert all(0 < result.reward < 1 for result in rollout_logprobs)


def test_probabilities_of_the_options_sum_to_one():
    rollout = a_rollout(reward="prob")

    per_gold = [
        rollout.score(rollout.prepare(tuple(choice_row(7, gold=gold) for gold in range(3))))
    ]

    assert math.fsum(result.reward for result in per_gold[0]) == pytest.approx(1)


@pytest.mark.parametrize(("scoring", "rows"), [("choice", CHOICES), ("generate", QUESTIONS)])
def test_in_float32_a_split_batch_gives_the_same_results(scoring, rows):
    whole = a_rollout(scoring=scoring, batches=Batches(64))
    expected = whole.score(whole.prepare(rows))
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

    found = split.score(split.prepare(rows))

    assert max(calls) > 5
    assert split.batches.size <= 5
    assert found == expected


def test_the_reward_correct_replaces_the_grader_of_a_generated_answer():
    graded = a_rollout(scoring="generate")
    plain = a_rollout(scoring="generate", reward="correct")

    rewards = [result.reward for result in graded.score(graded.prepare(QUESTIONS))]

    assert any(0 < reward < 1 for reward in rewards)
    assert {r.reward for r in plain.score(plain.prepare(QUESTIONS))} <= {0.0, 1.0}


@pytest.mark.parametrize(("scoring", "rows"), [("choice", CHOICES), ("generate", QUESTIONS)])
def test_an_overflowing_model_gives_nan_and_nothing_correct(scoring, rows):
    model = tiny_llama()
    model.model.norm.weight.fill_(float("nan"))
    rollout = a_rollout(model, scoring=scoring)

    results = rollout.score(rollout.prepare(rows))

    assert all(math.isnan(result.reward) and not result.correct for result in results)


@pytest.mark.parametrize(("scoring", "rows"), [("choice", CHOICES), ("generate", QUESTIONS)])
def test_taking_rows_keeps_their_tokens(scoring, rows):
    rollout = a_rollout(scoring=scoring)

    taken = rollout.prepare(rows).take([7, 2])

    assert taken == rollout.prepare((rows[7], rows[2]))


@pytest.mark.parametrize(("scoring", "rows"), [("choice", CHOICES), ("generate", QUESTIONS)])
def test_a_row_longer_than_the_context_is_refused_by_name(scoring, rows):
    rollout = a_rollout(tiny_llama(max_position_embeddings=24), scoring=scoring)

    with pytest.raises(TaskError, match=r"row row-0 of made-up needs \d+ tokens.*at most 24"):
        rollout.prepare(rows)


@pytest.mark.parametrize(
    ("scoring", "reward", "message"),
    [("rank", None, "'rank', expected choice or generate"), ("generate", "prob", "needs options")],
)
def test_a_scoring_the_task_does_not_have_is_refused(scoring, reward, message):
    with pytest.raises(TaskError, match=message):
        Rollout(tiny_llama(), tiny_tokenizer(), a_task(), scoring=scoring, reward=reward)


@pytest.mark.parametrize(("scoring", "rows"), [("choice", CHOICES), ("generate", QUESTIONS)])
def test_the_output_layer_sees_contiguous_input_only_while_scoring(scoring, rows):
    model, seen = tiny_llama(), []
    rollout = a_rollout(model, scoring=scoring)
    layer = model.get_output_embeddings()
    forward = layer.forward
    layer.forward = lambda hidden: seen.append(hidden.is_contiguous()) or forward(hidden)

    rollout.score(rollout.prepare(rows))

    assert seen
    assert all(seen)
    assert not layer._forward_pre_hooks


def test_rewards_are_averaged_in_row_order():
    rewards = [1e16, 1.0, -1e16, 1.0]
    results = [RowResult(reward=reward, correct=False, answer="") for reward in rewards]

    assert mean_reward(results) == (((1e16 + 1.0) - 1e16) + 1.0) / 4
