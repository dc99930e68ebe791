"""Where a change sits, as it is printed of what no small run has."""

from dataclasses import replace

from esft.cli.layers import largest_lines, layer_lines
from esft.engine.largest import Largest
from esft.engine.measures import LayerDrift
from esft.evals.results import LargestScore, StepDrift, TaskResult, compared
from esft.runs.records import StepScore
from esft.stats.kept import Kept
from esft.stats.knowing import Knowing, knowing_figures


def test_of_changes_that_make_the_model_overflow_no_figure_is_printed():
    knowing = knowing_figures([(True, Knowing(claim="yes", substring=True, words=True))] * 2)
    whole = StepScore(step=3, n=2, accuracy=1.0, se=0.0, reward=1.0, reward_se=0.0, knowing=knowing)
    part = replace(whole, accuracy=0.0, reward=None, reward_se=None, knowing=None)
    all_of_it = Kept(share=1, low=0.9, high=1.1)
    kept = {"accuracy": all_of_it, "reward": all_of_it, "d_prime": all_of_it}
    largest = LargestScore(percent=100, score=whole, **kept), LargestScore(percent=50, score=part)
    scores = replace(whole, step=0), whole
    task = TaskResult(name="know", role="prior", evaluations=scores, largest=largest)
    task = compared(task, {0: [(0, 0.5), (0, 0.6)], 3: [(1, 0.7), (1, 0.9)]}, "ab")

    lines = [line for line in largest_lines(task) if "50%" in line]

    told = [line.split(maxsplit=1)[1] for line in lines]
    assert told == ["0.000 +- 0.000", "not finite", "not finite"]


def test_shares_are_of_the_change_and_of_the_square_of_the_drift():
    whole, part = (
        StepScore(
            step=3, n=9, accuracy=of, se=0.1, reward=of, reward_se=0.1, grader_failures=0
        )
        for of in (0.5, 0.4)
    )  # fmt: skip
    at_all = LargestScore(percent=100, score=whole, accuracy=Kept(share=1, low=0.8, high=1.2))
    at_5 = LargestScore(percent=5, score=part, accuracy=Kept(share=0.25, low=-0.1, high=0.6))
    task = TaskResult(
        name="arc", role="prior", evaluations=(replace(whole, step=0), whole),
        largest=(at_all, at_5, replace(at_5, percent=100, scale=0.25)),
    )  # fmt: skip
    task = compared(task, {0: [(0, 0), (1, 1)], 3: [(1, 1), (1, 1)]}, "ab")
    layers = (LayerDrift(name="model.layers.0", norm=10.0, numel=400),)
    largest = (Largest(percent=5, least=0.25, share=0.05, norm=5.0),)
    drift = StepDrift(
        step=3, norm=10.0, zero_share=0.0, unmoved_share=0.0, layers=layers, largest=largest
    )

    assert list(largest_lines(task)) == [
        "  accuracy by the largest changes of step 3 alone",
        "          100%  0.500 +- 0.100",
        "            5%  0.400 +- 0.100  keeps 0.25 (-0.10 to 0.60)",
        "    all x 0.25  0.400 +- 0.100  keeps 0.25 (-0.10 to 0.60)",
    ]
    assert list(layer_lines(drift)) == [
        "  largest  5%: |D| from 0.25, 5.0% of weights, 25% of ||D||^2",
        "  layer                 weights      ||D||   a weight",
        "  model.layers.0            400         10        0.5",
    ]


def test_of_a_step_that_changed_nothing_there_are_no_largest_changes():
    layers = (LayerDrift(name="model.layers.0", norm=0.0, numel=10),)
    nothing = (Largest(percent=50, least=1e-45, share=0.0, norm=0.0),)
    drift = StepDrift(
        step=1, norm=0.0, zero_share=1.0, unmoved_share=1.0, layers=layers, largest=nothing
    )

    lines = list(layer_lines(drift))

    assert [line.split()[0] for line in lines] == ["layer", "model.layers.0"]
