"""Rollouts against plain transformers: both make the same answers and log-probabilities."""

import pytest
import torch
from tiny_models import write_model

from esft.bench.rollout import RolloutSettings, bench_rollout, in_batches, with_options
from esft.errors import ModelError, UnknownTaskError
from esft.tasks.registry import get_task
from esft.tasks.rows import split_rows

SMALL = {"device": "cpu", "dtype": "float32", "rows": 9, "batches": (1, 4), "rounds": 2}


def test_both_ways_come_out_the_same_in_every_batch_size():
    measured = bench_rollout(RolloutSettings(**SMALL))

    assert [(rate.scoring, rate.batch) for rate in measured.rates] == [
        (scoring, batch) for scoring in ("generate", "choice") for batch in (1, 4)
    ]
    for rate in measured.rates:
        assert rate.same == rate.sequences == (9 if rate.scoring == "generate" else 36)
        rows, tokens = rate.rows_per_second, rate.tokens_per_second
        assert tokens.median / rows.median == pytest.approx(rate.tokens / 9)


def test_members_in_one_batch_answer_as_one_at_a_time():
    few = SMALL | {"rows": 4, "rounds": 1}
    measured = bench_rollout(RolloutSettings(members=3, max_new_tokens=4, **few))

    assert [(rate.scoring, rate.batch) for rate in measured.shared] == [
        (scoring, batch) for scoring in ("generate", "choice") for batch in (1, 4)
    ]
    for rate in measured.shared:
        assert (rate.members, rate.rows, rate.same) == (3, 4, 12)
        assert rate.rows_per_second.median > 0 < rate.speedup.median


def test_a_model_whose_members_cannot_share_a_batch_is_refused(monkeypatch):
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: x @ self.weight.T)

    with pytest.raises(ModelError, match=r"members of embedded cannot share a batch: .*q_proj"):
        bench_rollout(RolloutSettings(members=2, max_new_tokens=2, **SMALL))


def test_another_model_is_asked_what_comes_with_esft(tmp_path):
    model = write_model(tmp_path / "base")
    settings = RolloutSettings(model=str(model), max_new_tokens=5, **SMALL)

    measured = bench_rollout(settings)

    assert measured.task == "conciseness"
    generated = measured.rates[0]
    assert generated.tokens <= 9 * 5
    assert all(rate.same == rate.sequences for rate in measured.rates)


def test_a_task_that_is_named_is_scored_in_its_own_way():
    measured = bench_rollout(RolloutSettings(task="sort-digits", **SMALL))

    assert {rate.scoring for rate in measured.rates} == {"generate"}
    with pytest.raises(UnknownTaskError, match="sort-digit"):
        bench_rollout(RolloutSettings(task="sort-digit", **SMALL))


def test_options_are_answers_of_rows_the_right_one_first():
    rows = split_rows(get_task("reverse-letters"), 5, 1).train

    made = with_options(rows)

    answers = [row.answer for row in rows]
    for number, row in enumerate(made):
        assert row.options[row.gold].text == answers[number]
        assert [option.text for option in row.options[1:]] == (answers * 2)[number + 1 : number + 4]


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_batches_are_of_like_length_and_results_in_order(batch):
    words, seen = ["a", "bbb", "", "cc", "dddd", "bb"], []

    def work(some):
        seen.append([len(word) for word in some])
        return [word.upper() for word in some]

    assert in_batches(work, words, batch, len) == [word.upper() for word in words]
    assert [length for one in seen for length in one] == sorted(map(len, words), reverse=True)
    assert max(map(len, seen)) <= batch
