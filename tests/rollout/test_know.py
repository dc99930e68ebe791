"""How rows of task know are rolled out: two answers, or one and the probability of Yes."""

import math

import pytest
import torch
from tiny_models import tiny_llama, tiny_tokenizer

from esft.engine import Member, Weights, perturbed
from esft.engine.batched import BatchedModel
from esft.rollout.batches import Batches
from esft.rollout.encode import encode_prompt
from esft.rollout.results import Evaluation, knowing_change
from esft.rollout.rollout import Rollout
from esft.rollout.typed import from_json, to_json
from esft.runs.records import StepScore
from esft.tasks.know import ENGLISH, LETTERS, know_task, read_know
from esft.tasks.registry import get_task

SOURCE = get_task("nq-open")


def rows(wording=ENGLISH, count=5):
    raws = [
        {"question": f"Where is {'so ' * number}{number}?", "answer": ["a", "b"]}
        for number in range(count)
    ]
    return [read_know(SOURCE, wording, raw) for raw in raws]


def a_rollout(model=None, tokenizer=None, **settings):
    model = tiny_llama() if model is None else model
    tokenizer = tiny_tokenizer() if tokenizer is None else tokenizer
    settings = {"max_new_tokens": 3, "batches": Batches(4)} | settings
    return Rollout(model, tokenizer, know_task(SOURCE, "know"), **settings)


@torch.inference_mode()
def logprob(model, tokens, answer):
    """Log-probability of an answer behind tokens, a forward a token."""
    total = 0.0
    for token in answer:
        logits = model(input_ids=torch.tensor([tokens])).logits[0, -1].float()
        total += float(torch.log_softmax(logits, -1)[token])
        tokens = (*tokens, token)
    return total


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("wording", [ENGLISH, LETTERS])
def test_p_is_the_probability_of_yes_against_no_also_of_several_tokens(wording, chat):
    model, tokenizer = tiny_llama(), tiny_tokenizer(chat_template=chat)
    rollout, asked = a_rollout(model, tokenizer, reward="confidence"), rows(wording)

    results = rollout.roll_out(rollout.encode(asked))

    for row, result in zip(asked, results, strict=True):
        prompt = encode_prompt(tokenizer, row.questions[1])
        words = [word if chat else f" {word}" for word in (wording.yes, wording.no)]
        yes, no = (
            logprob(model, prompt, tokenizer(word, add_special_tokens=False)["input_ids"])
            for word in words
        )
        p = 1 / (1 + math.exp(no - yes))
        assert result.knowing.p_yes == pytest.approx(p, abs=1e-5)
        assert result.answers[1] == (wording.yes if p > 0.5 else wording.no)
        assert result.knowing.claim == ("yes" if p > 0.5 else "no")
        assert result.reward == pytest.approx(result.correct + 1 - (result.correct - p) ** 2)


@pytest.mark.parametrize("reward", ["both", "correct", "align", "confidence"])
def test_the_direct_answer_is_the_same_by_every_reward_and_pays_by_its_name(reward):
    rollout, plain = a_rollout(reward=reward), a_rollout()
    asked = rows()

    results = rollout.evaluate(rollout.encode(asked))
    usual = plain.evaluate(plain.encode(asked))

    for row, one, other in zip(asked, results, usual, strict=True):
        assert one.answers[0] == other.answers[0]
        grade = rollout.task.grade(row, one.answers, *filter(None, [one.knowing.p_yes]))
        assert one.reward == grade.reward_of(reward)
    assert [other.knowing.p_yes for other in usual] == [None] * len(asked)


def test_only_the_direct_question_is_generated_where_confidence_is_asked_for():
    rollout = a_rollout(reward="confidence")

    (one,) = rollout.encode(rows(count=1))

    assert (len(one.prompts), len(one.options)) == (1, 2)
    assert rollout.sequences(one) == 3  # Yes and No part at their first token here
    # As pass@k evaluates a task: right or wrong is what counts there.
    rollout.reward = None
    assert rollout.roll_out([one])[0].knowing.p_yes is not None


def test_members_in_one_batch_are_as_sure_as_one_at_a_time():
    model = tiny_llama()
    weights, members = Weights(model, rank=1), [Member(5), Member(7, -1)]
    rollout = a_rollout(model, reward="confidence")
    encoded = rollout.encode(rows())
    alone = []
    for member in members:
        with perturbed(weights, member, 0.05):
            alone += rollout.roll_out(encoded)

    batched = BatchedModel(model, weights)
    with batched.members(members, 0.05):
        asked = [one.of(number) for number in range(2) for one in encoded]
        together = rollout.by(batched).roll_out(asked)

    p = [[one.knowing.p_yes for one in results] for results in (alone, together)]
    assert p[0] == pytest.approx(p[1], abs=1e-5)
    assert len({round(one, 4) for one in p[0]}) > 2


@pytest.mark.parametrize("reward", [None, "confidence"])
def test_an_overflowing_model_gives_nan_and_says_nothing_of_knowing(reward):
    model = tiny_llama()
    model.model.norm.weight.fill_(float("nan"))
    rollout = a_rollout(model, reward=reward)

    results = rollout.roll_out(rollout.encode(rows()))

    assert all(math.isnan(one.reward) and one.knowing is None for one in results)
    assert Evaluation(tuple(results)).figures()["knowing"] is None


@pytest.mark.parametrize("reward", [None, "confidence"])
def test_so_does_a_model_that_overflows_in_the_claim_alone(reward):
    model, tokenizer = tiny_llama(tied=False), tiny_tokenizer()
    asked = rows(count=1)
    plain = a_rollout(model, tokenizer, reward=reward)
    (before,) = plain.roll_out(plain.encode(asked))
    direct, claim = (encode_prompt(tokenizer, one) for one in asked[0].questions)
    answer = tokenizer(before.answers[0], add_special_tokens=False)["input_ids"]
    only_asked_then = next(iter({*claim} - {*direct} - {*answer}))
    model.model.embed_tokens.weight[only_asked_then] = float("nan")

    (after,) = plain.roll_out(plain.encode(asked))

    assert after.answers[0] == before.answers[0]
    assert math.isnan(after.reward)
    assert (after.correct, after.knowing) == (False, None)


def test_figures_are_on_record_by_name_and_computed_from_the_record_alone():
    rollout = a_rollout(reward="confidence")
    results = rollout.evaluate(rollout.encode(rows()))

    figures = Evaluation(tuple(results)).figures()
    read = tuple(from_json(type(one), to_json(one)) for one in results)

    assert Evaluation(read).figures() == figures
    score = StepScore(step=0, **figures)
    assert from_json(StepScore, to_json(score)) == score
    assert {"d_prime", "auroc", "calibration_error"} <= to_json(score)["knowing"]["measures"].keys()
    assert knowing_change(results, results)["d_prime"].value in (0, None)
