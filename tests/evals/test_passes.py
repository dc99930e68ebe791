"""Sampled answers for pass@k: drawn by their numbers alone, measured once, base against tuned."""

from dataclasses import replace

import pytest
from tiny_models import write_model as write
from tiny_runs import Notes, a_recipe, never

from esft.errors import RecipeError
from esft.evals.request import EvalRequest
from esft.evals.results import read_eval
from esft.evals.run import run_eval, write_eval
from esft.models.load import load_model
from esft.recipe.priors import parse_prior_line
from esft.recipe.settings import Prior
from esft.rollout.batches import Batches
from esft.rollout.rollout import Rollout
from esft.stats.passes import pass_rates
from esft.tuning.start import run_tuning
from esft.tuning.tasks import eval_task, rows_of, sampling

GENERATED = "subtract-two-digits:{} scoring=generate"
QUIET = {"kl_prompts": 0, "noise_floor": False, "device": "cpu"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def embedded():
    return load_model("embedded", device="cpu")


@pytest.fixture
def calls(monkeypatch):
    """Temperature and number of the answers that were scored, call by call."""
    calls, evaluate = [], Rollout.evaluate

    def counting(self, rows):
        calls.append((self.temperature, len(rows)))
        return evaluate(self, rows)

    monkeypatch.setattr(Rollout, "evaluate", counting)
    return calls


def asked(**changes):
    named = {"models": ("embedded",), "priors": (GENERATED.format(6),), "samples": 4}
    return EvalRequest(**(named | QUIET | changes))


def answers(loaded, rows=8, samples=3, size=64, temperature=1.0):
    """What a model answers, sample by sample: of each row its text."""
    spec = parse_prior_line(GENERATED.format(rows))
    task, of_task = rows_of(spec, 200, None)
    task = eval_task("prior", task, spec, of_task, loaded, Batches(size))
    drawn = sampling(task, samples, temperature)
    texts = [result.answers[0] for result in drawn.rollout.evaluate(drawn.encoded)]
    return [texts[start : start + rows] for start in range(0, len(texts), rows)]


def test_a_sample_depends_on_its_number_and_row_alone(embedded):
    three = answers(embedded)

    assert answers(embedded, size=1) == answers(embedded, size=5) == three
    assert answers(embedded, samples=2) == three[:2]
    assert [row[:5] for row in three] == answers(embedded, rows=5)
    assert len({tuple(row) for row in three}) == 3


def test_a_colder_model_says_the_likeliest_more_often(embedded):
    (greedy,) = answers(embedded, rows=40, samples=1, temperature=1e-4)

    def alike(temperature):
        drawn = answers(embedded, rows=40, samples=4, temperature=temperature)
        return sum(one == best for of in drawn for one, best in zip(of, greedy, strict=True))

    assert alike(1e-4) == 160
    assert alike(0.5) > alike(1.0) + 10 > alike(2.0) + 20


def test_evaluations_stay_greedy_and_what_was_drawn_is_not_drawn_again(calls):
    plain = run_eval(asked(samples=None), Notes()).record

    first = run_eval(asked(), Notes()).record
    again = run_eval(asked(), Notes()).record
    other = run_eval(asked(temperature=2.0), Notes()).record

    assert calls == [(None, 6), (1.0, 24), (2.0, 24)]
    assert again == first
    assert first.tasks[0].evaluations == other.tasks[0].evaluations == plain.tasks[0].evaluations
    assert (plain.samples, plain.temperature, plain.tasks[0].passes) == (None, None, ())
    assert (first.samples, first.temperature, other.temperature) == (4, 1.0, 2.0)
    rates = [passes.rates for one in (first, other) for passes in one.tasks[0].passes]
    assert [[rate.k for rate in of] for of in rates] == [[1, 2, 4]] * 2
    assert rates[0] != rates[1]


def test_tasks_whose_answers_are_not_generated_have_no_samples(calls):
    record = run_eval(asked(priors=("copy-letters:5", GENERATED.format(6))), Notes()).record

    assert [len(task.passes) for task in record.tasks] == [0, 1]
    assert sorted(calls, key=str) == [(1.0, 24), (None, 5), (None, 6)]


def test_a_run_is_compared_with_its_base_row_by_row_on_the_same_noise(tmp_path):
    made = a_recipe(tmp_path, task={"holdout": 6})
    priors = ("upper-letters:5 scoring=generate max_new_tokens=4",)
    run_tuning(replace(made, prior=Prior(tasks=priors, every=1)), Notes(), never)
    request = EvalRequest(run=str(tmp_path / "run"), samples=3, **QUIET)

    result = run_eval(request, Notes())

    write_eval(result)
    assert read_eval(tmp_path / "run" / "eval.json") == result.record
    for task, measured in zip(result.record.tasks, result.measured, strict=True):
        assert [score.step for score in task.evaluations] == [0, 1, 2, 3]
        assert [passes.step for passes in task.passes] == [0, 3]  # the base and the last
        counts = {
            step: [
                sum(bool(one.correct) for one in of.results[row :: len(measured.task.encoded)])
                for row in range(len(measured.task.encoded))
            ]
            for step, of in measured.samples.items()
        }
        first, last = (passes.rates[0] for passes in task.passes)
        shares = {step: sum(of) / (3 * len(of)) for step, of in counts.items()}
        assert (first.rate, last.rate) == pytest.approx((shares[0], shares[3]))
        assert last.change == pytest.approx(shares[3] - shares[0])
        assert first.change is None


def test_models_that_are_close_draw_the_same_answers_but_for_a_few(tmp_path):
    tokenizer = load_model("embedded", device="cpu").tokenizer
    for name, dtype in (("base", "float32"), ("close", "bfloat16")):
        model = load_model("embedded", device="cpu", dtype=dtype).model
        write(tmp_path / name, model, tokenizer)
    named = {"base": str(tmp_path / "base"), "models": (str(tmp_path / "close"),)}

    (measured,) = run_eval(asked(**named), Notes()).measured

    pairs = list(zip(*(of.results for of in measured.samples.values()), strict=True))
    assert sum(one.answers == other.answers for one, other in pairs) > 20  # of 24


def test_what_is_right_is_counted_row_by_row():
    result = run_eval(asked(priors=(GENERATED.format(20),), samples=5), Notes())

    (measured,), (task,) = result.measured, result.record.tasks
    right = [0] * 20
    for number, answer in enumerate(measured.samples[0].results):
        right[number % 20] += answer.correct
    assert task.passes[0].rates == pass_rates(5, right)
    assert len({*right}) > 2


def test_the_same_rows_drawn_again_are_other_measurements(calls):
    request = asked(priors=(GENERATED.format(64),), samples=2)  # a part of the cache each

    first = run_eval(request, Notes())
    again = run_eval(request, Notes())

    assert calls == [(None, 64), (1.0, 64), (1.0, 64)]
    assert again.measured[0].samples == first.measured[0].samples


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"temperature": 0.0}, "--temperature is 0, expected a number above 0"),
        ({"temperature": float("nan")}, "--temperature is nan, expected a number above 0"),
        ({"temperature": float("inf")}, "--temperature is inf, expected a number above 0"),
        ({"samples": None, "temperature": 0.5}, "expected --samples with it"),
    ],
)
def test_a_temperature_that_draws_nothing_is_refused(changes, error):
    with pytest.raises(RecipeError, match=error) as told:
        run_eval(asked(**changes), Notes())

    assert told.value.hint
