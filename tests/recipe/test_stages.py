"""The [[stage]] tables of a recipe."""

import pytest

from esft.errors import RecipeError
from esft.recipe.settings import settings_of
from esft.recipe.stages import tuned_on
from esft.recipe.toml import dump_recipe, load_recipe

HEAD = '[model]\nid = "embedded"\n[search]\nsteps = 7\nalpha = 0.5\n'
CHAIN = """
[[stage]]
steps = 3
task.name = "sort-digits"
[[stage]]
task.name = "copy-letters"
search.alpha = 1
anchor.kl_tasks = ["sort-digits"]
anchor.kl = 0.5
[[stage]]
[stage.task]
name = "sort-digits"
rows_per_step = 5
"""


@pytest.fixture
def write(tmp_path):
    def written(text):
        file = tmp_path / "chain.toml"
        file.write_text(text)
        return str(file)

    return written


def test_a_chain_is_dumped_loads_again_and_is_said_by_its_settings(write):
    recipe = load_recipe(write(HEAD + CHAIN), {}, tasks=True)

    assert [stage.steps for stage in recipe.stages] == [3, 7, 7]
    assert recipe.search.steps == 17
    assert recipe.task.name == "sort-digits"
    assert load_recipe(write(dump_recipe(recipe)), {}) == recipe
    assert load_recipe(None, settings_of(recipe)) == recipe
    assert tuned_on(settings_of(recipe)) == "sort-digits > copy-letters > sort-digits"


def test_a_stage_is_the_tables_above_with_its_own_settings(write):
    recipe = load_recipe(write(HEAD + CHAIN), {"search.sigma": 0.25})

    one, two, three = map(recipe.at_stage, range(3))
    assert not one.stages
    assert [stage.search.steps for stage in (one, two, three)] == [3, 7, 7]
    assert [stage.search.alpha for stage in (one, two, three)] == [0.5, 1.0, 0.5]
    assert [stage.search.sigma for stage in (one, two, three)] == [0.25] * 3
    assert (two.anchor.kl, two.anchor.kl_tasks, three.anchor.kl) == (0.5, ("sort-digits",), 0)
    assert [task.name for task in recipe.targets] == ["copy-letters", "sort-digits"]


WRONG = {
    'model.id = "other"': ('1: model.id is "other", expected what stages can change', "[model]"),
    "search.seed = 3": ("1: search.seed is 3, expected what stages can change", "[search]"),
    "run.threads = 3": ("1: run.threads is 3, expected what stages can change", "[run]"),
    "search.steps = 3": ("1: search.steps is 3, expected what stages", "write steps = 3"),
    "steps = 0": ("1: steps is 0, expected a whole number, 1 or more", "for example steps = 50"),
    "steps = true": ("1: steps is true, expected a whole number", "steps = 50"),
    "sigma = 3": ("1: sigma = 3 is not a setting, expected steps or one", "write search.sigma"),
    "search.sigm = 3": ("1: search.sigm = 3 is not a setting", "write search.sigma"),
    "search.sigma = -1": ("1: [search] sigma is -1, expected a finite number", "sigma = "),
    'task.name = "nosuch"': ("task 'nosuch' is unknown", "esft tasks"),
    'anchor.awd = 9\nanchor.norm = "l2"': ("1: [anchor] awd is 9.0, expected at most 2", "awd = 2"),
}


@pytest.mark.parametrize("line", WRONG)
def test_what_a_stage_cannot_say_is_refused_with_its_number(write, line):
    text, hint = WRONG[line]
    named = "" if line.startswith("task.name") else '[[stage]]\ntask.name = "sort-digits"\n'
    file = write(f"{HEAD}[[stage]]\ntask.name = 'copy-letters'\n{line}\n{named}")
    if line.startswith("task.name"):
        file = write(f"{HEAD}[[stage]]\n{line}\n")

    with pytest.raises(RecipeError) as caught:
        load_recipe(file, {}, tasks=True)

    assert text in str(caught.value)
    assert hint in caught.value.hint


def test_a_task_that_comes_again_with_other_rows_and_a_peak_of_a_chain_are_refused(write):
    again = '[[stage]]\ntask.name = "sort-digits"\ntask.train = 9\n'
    with pytest.raises(RecipeError, match=r"4: sort-digits has other rows or grading than before"):
        load_recipe(write(HEAD + CHAIN + again), {})
    with pytest.raises(RecipeError, match=r"stop_after_peak is 2, expected none of a chain"):
        load_recipe(write(HEAD + CHAIN), {"run.stop_after_peak": 2, "prior.every": 1})


def test_an_anchor_that_moves_by_stage_needs_stages(write):
    moving = {"anchor.move": "stage", "anchor.awd": 0.1}
    assert load_recipe(write(HEAD + CHAIN), moving).anchor.move == "stage"
    with pytest.raises(RecipeError, match='move is "stage", expected "none" or "ema": there are'):
        load_recipe(write(HEAD + '[task]\nname = "arc"\n'), moving)
    with pytest.raises(RecipeError, match=r"1: anchor.tau is 0.5, expected what stages can change"):
        load_recipe(write(f"{HEAD}[[stage]]\ntask.name = 'arc'\nanchor.tau = 0.5\n"), {})


@pytest.mark.parametrize("body", ['stage = "x"', "stage = []", "stage = [3]", "[stage]\nsteps = 3"])
def test_stages_that_are_no_list_of_tables_say_how_to_write_them(write, body):
    with pytest.raises(RecipeError, match="expected a table") as caught:
        load_recipe(write(f"{body}\n{HEAD}" if "[stage]" not in body else HEAD + body), {})
    assert "[[stage]] in double brackets" in caught.value.hint


def test_a_change_that_every_stage_says_otherwise_is_refused(write):
    file = write(HEAD + CHAIN)

    recipe = load_recipe(file, {"search.steps": 9})
    assert [stage.steps for stage in recipe.stages] == [3, 9, 9]
    dumped = write(dump_recipe(recipe))
    for change in ({"task.name": "arc"}, {"search.steps": 9}):
        with pytest.raises(RecipeError, match="expected none: each stage says its own"):
            load_recipe(dumped, change)
    file = write(HEAD + CHAIN)
    assert load_recipe(file, {"search.alpha": 0.25}).at_stage(0).search.alpha == 0.25
