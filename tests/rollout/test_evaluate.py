import json
import math
from dataclasses import replace

import pytest
from scoring import a_task, choice_row, question_row
from tiny_models import tiny_llama, tiny_tokenizer

from esft.rollout.batches import Batches
from esft.rollout.cache import Cache
from esft.rollout.evaluate import PART, ModelVersion, evaluate
from esft.rollout.results import Evaluation, RowResult, paired_change
from esft.rollout.rollout import Rollout
from esft.rollout.typed import from_json, to_json
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split
from esft.tasks.task import Grade

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


def evaluated(folder, rollout, rows=ROWS, ready=None, **version):
    version = ModelVersion(**{"base": "tiny", "parts": {}, "journal": ""} | version)
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
        {"parts": {"chat template": "another"}},
        {"rows": ROWS[:1]},
        {"max_new_tokens": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_can_change_a_result_makes_it_another_evaluation(tmp_path, change):
    evaluated(tmp_path, a_rollout(), ROWS[:2])
    version = {name: change[name] for name in ("rows", "journal", "parts") if name in change}
    other = a_rollout(**{name: change[name] for name in change.keys() - version.keys()})

    evaluated(tmp_path, other, **{"rows": ROWS[:2]} | version)

    assert other.scored > 0


@pytest.mark.parametrize(
    ("file", "first", "second"),
    [
        ("my.jsonl", "contains", "exact"),
        ("my.jsonl", '{"prompt": "Q?", "answer": "a"}', '{"prompt": "Q?", "answer": "b"}'),
        ("my.py", "def reward(row, answer): return 1", "def reward(row, answer): return 0"),
        ("helper.py", "REWARD = 1", "REWARD = 0"),
    ],
)
def test_what_grades_a_users_own_rows_makes_it_another_evaluation(tmp_path, file, first, second):
    contents = {
        "my.jsonl": '{"prompt": "Q?", "answer": "a"}',
        "my.py": "from helper import REWARD\ndef reward(row, answer): return REWARD",
        "helper.py": "REWARD = 1",
    }
    rollouts = []
    for content in (first, second):
        name, grader = "my.py" if file.endswith(".py") else "my.jsonl", None
        if file == "my.jsonl":
            grader, content = (
                (content, contents[file]) if "{" not in content else ("exact", content)
            )
        for own, text in (contents | {file: content}).items():
            (tmp_path / own).write_text(text)
        task = get_task(str(tmp_path / name), grader)
        rollouts.append(a_rollout(task, max_new_tokens=2))
        evaluated(tmp_path / "cache", rollouts[-1], read_split(task, "train"))

    assert [rollout.scored for rollout in rollouts] == [1, 1]


def test_where_memory_ran_out_all_rows_come_from_the_smaller_batches_and_those_are_kept(tmp_path):
    sizes = []

    class Halved(Counting):
        def evaluate(self, encoded):
            sizes.append(self.batches.size)
            if len(sizes) == 2:
                self.batches.size = 16
            return super().evaluate(encoded)

    evaluated(tmp_path, Halved(tiny_llama(), tiny_tokenizer(), a_task()))
    again = a_rollout(batches=Batches(16))
    evaluated(tmp_path, again)

    assert sizes == [64, 64, 16, 16]
    assert again.scored == 0


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


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    rollout = a_rollout()

    assert evaluated(tmp_path / "file", rollout).n == len(ROWS)
