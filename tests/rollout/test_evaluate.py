import math

import pytest
from scoring import a_task, choice_row
from tiny_models import tiny_llama, tiny_tokenizer

from esft.rollout.evaluate import evaluate
from esft.rollout.results import Evaluation, RowResult, paired_change
from esft.rollout.rollout import Rollout
from esft.stats.intervals import mean_and_error


def an_evaluation(rewards):
    results = tuple(RowResult(reward=r, correct=r > 0.5, answer="") for r in rewards)
    reward, error = mean_and_error(list(rewards))
    return Evaluation(
        n=len(results),
        accuracy=0.0,
        accuracy_se=0.0,
        reward=reward,
        reward_se=error,
        acc=None,
        results=results,
    )


def test_the_error_of_a_mean_shrinks_with_the_root_of_the_rows():
    mean, error = mean_and_error([0.0, 1.0] * 50)
    _, error_of_four_times_as_many = mean_and_error([0.0, 1.0] * 200)

    assert mean == 0.5
    assert error == pytest.approx(0.5 / math.sqrt(99))
    assert error / error_of_four_times_as_many == pytest.approx(2, rel=0.01)


def test_one_row_has_no_error():
    assert math.isnan(mean_and_error([0.3])[1])


def test_a_paired_change_takes_out_what_the_rows_have_in_common():
    before = an_evaluation([0.0, 0.2, 0.4, 0.6])
    after = an_evaluation([0.1, 0.3, 0.5, 0.7])

    change, error = paired_change(before, after)

    assert change == pytest.approx(0.1)
    assert error == pytest.approx(0, abs=1e-12)
    assert paired_change(before, after, "correct")[0] == 0


def test_an_evaluation_of_options_gives_both_accuracies_and_a_record_a_row():
    rows = tuple(choice_row(number, gold=number % 3) for number in range(12))
    rollout = Rollout(tiny_llama(), tiny_tokenizer(), a_task())
    encoded = rollout.encode(rows)

    evaluation = evaluate(rollout, encoded)

    summary, records = evaluation.summary(), evaluation.rows(encoded.rows)
    assert summary["n"] == 12
    assert summary["accuracy"] == summary["acc_norm"] == sum(r["correct"] for r in records) / 12
    assert summary["acc"] == sum(r.correct_unnormalized for r in evaluation.results) / 12
    assert [record["id"] for record in records] == [row.id for row in rows]
    assert [record["key"] for record in records] == [row.key for row in rows]
