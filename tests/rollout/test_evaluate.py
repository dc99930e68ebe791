import json
import math
from dataclasses import replace

import pytest
from scoring import a_task, choice_row, question_row
from tiny_models import tiny_llama, tiny_tokenizer

from esft.rollout.batches import Batches
from esft.rollout.evaluate import PART, Cache, ModelVersion, evaluate
from esft.rollout.results import Evaluation, RowResult, paired_change
from esft.rollout.rollout import Rollout
from esft.tasks.task import Grade
from esft.typed import from_json, to_json

ROWS = tuple(choice_row(number, gold=number % 3) for number in range(PART + 6))
RESULTS = (
    RowResult(reward=1.1, correct=True, answers=("one", "tw\no")),
    RowResult(reward=math.nan, correct=False),
    RowResult(reward=0.0, correct=False, answers=("",), failure="took longer than 1 s"),
    RowResult(reward=0.25, correct=False, answers=("b",), correct_unnormalized=True),
)


class Counting(Rollout):
    """Counts the rows it scores."""

    scored = 0

    def evaluate(self, encoded):
        self.scored += len(encoded)
        return super().evaluate(encoded)


def a_rollout(task=None, **settings):
    task = a_task() if task is None else task
    return Counting(tiny_llama(), tiny_tokenizer(), task, **settings)


def evaluated(folder, rollout, rows=ROWS, journal="", ready=None):
    version = ModelVersion(base="tiny", journal=journal)
    return evaluate(rollout, rollout.encode(rows), Cache(folder), version, ready)


def test_a_paired_change_takes_out_what_the_rows_have_in_common():
    before, after = (
        Evaluation(tuple(RowResult(reward=r, correct=r > 0.5) for r in rewards))
        for rewards in ([0.0, 0.2, 0.4, 0.45], [0.1, 0.3, 0.5, 0.55])
    )

    change, error = paired_change(before, after)

    assert change == pytest.approx(0.1)
    assert error == pytest.approx(0, abs=1e-12)
    assert paired_change(before, after, "correct")[0] == 0.25


def test_an_evaluation_of_options_gives_both_accuracies(tmp_path):
    evaluation = evaluated(tmp_path, a_rollout())

    figures = evaluation.figures()

    assert figures["n"] == len(ROWS)
    right = sum(result.correct for result in evaluation.results)
    assert figures["accuracy"] == figures["acc_norm"] == right / len(ROWS)
    plain = sum(result.correct_unnormalized for result in evaluation.results)
    assert figures["acc"] == plain / len(ROWS) != figures["accuracy"]


def test_results_are_read_back_from_json_as_they_were():
    records = to_json(RESULTS)

    read = [from_json(RowResult, record) for record in json.loads(json.dumps(records))]

    assert repr(read) == repr([*RESULTS])  # as text: NaN is not equal to itself
    assert records[1]["reward"] is None


def test_what_is_known_is_not_scored_again_and_more_rows_go_on_from_it(tmp_path):
    first, again, longer = a_rollout(), a_rollout(), a_rollout()

    evaluation = evaluated(tmp_path, first)

    assert evaluated(tmp_path, again) == evaluation
    assert evaluated(tmp_path, longer, ROWS[:PART]).results == evaluation.results[:PART]
    assert (first.scored, again.scored, longer.scored) == (len(ROWS), 0, 0)


def test_an_interrupted_evaluation_goes_on_from_its_last_part(tmp_path):
    class Interrupted(Counting):
        def evaluate(self, encoded):
            if self.scored:
                raise KeyboardInterrupt
            return super().evaluate(encoded)

    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path, Interrupted(tiny_llama(), tiny_tokenizer(), a_task()))
    resumed = a_rollout()

    assert evaluated(tmp_path, resumed) == evaluated(tmp_path / "other", a_rollout())
    assert resumed.scored == len(ROWS) - PART


@pytest.mark.parametrize(
    "change",
    [
        {"batches": Batches(3)},
        {"reward": "prob"},
        {"journal": "of step 1"},
        {"rows": ROWS[:1]},
        {"max_new_tokens": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_can_change_a_result_makes_it_another_evaluation(tmp_path, change):
    evaluated(tmp_path, a_rollout(), ROWS[:2])
    version = {name: change[name] for name in ("rows", "journal") if name in change}
    other = a_rollout(**{name: change[name] for name in change.keys() - version.keys()})

    evaluated(tmp_path, other, **{"rows": ROWS[:2]} | version)

    assert other.scored > 0


def test_results_from_batches_of_two_sizes_are_not_kept(tmp_path):
    class Halved(Counting):
        def evaluate(self, encoded):
            self.batches.size //= 2
            return super().evaluate(encoded)

    evaluated(tmp_path, Halved(tiny_llama(), tiny_tokenizer(), a_task()))

    assert list(tmp_path.iterdir()) == []


def test_a_part_in_which_a_grader_failed_is_scored_again(tmp_path):
    failed = Grade(reward=0.0, correct=False, failure="took longer than 1 s")
    task = replace(a_task("generate"), grade=lambda row, answers: failed)
    rollout, rows = a_rollout(task), tuple(question_row(number) for number in range(3))

    evaluated(tmp_path, rollout, rows)
    evaluated(tmp_path, rollout, rows)

    assert rollout.scored == 6


def test_nothing_is_made_ready_where_all_is_known(tmp_path):
    rollout, called = a_rollout(), []

    for _ in range(2):
        evaluated(tmp_path, rollout, ready=lambda: called.append(1) or rollout)

    assert called == [1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: path.write_text(path.read_text().replace("kept", "lost")),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff\n"),
        lambda path: path.with_name("other.json").replace(path),
        lambda path: path.unlink(),
    ],
)
def test_a_torn_or_foreign_file_is_not_used(tmp_path, damage):
    cache = Cache(tmp_path)
    cache.put("key", {"a": "kept"})
    (path,) = tmp_path.iterdir()
    cache.put("other key", {"a": "kept"})
    next(other for other in tmp_path.iterdir() if other != path).rename(tmp_path / "other.json")
    assert cache.get("key") == {"a": "kept"}

    damage(path)

    assert cache.get("key") is None
    cache.put("key", [1, "é"])
    assert cache.get("key") == [1, "é"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    rollout = a_rollout()

    assert evaluated(tmp_path / "file", rollout).n == len(ROWS)
