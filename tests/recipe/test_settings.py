"""The settings of a run: what is refused, and what the refusal says."""

import math
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.errors import RecipeError
from esft.recipe.check import SettingsError, as_toml, nearest
from esft.recipe.settings import Anchor, Model, Prior, Recipe, Run, Search, TaskSettings


def a_recipe(**tables):
    return Recipe(**({"model": Model(id="tiny"), "task": TaskSettings(name="arc")} | tables))


def test_a_recipe_of_a_model_and_a_task_has_the_published_settings_and_no_decay():
    recipe = a_recipe()

    assert recipe.search == Search(
        seed=None, steps=500, population=30, sigma=1e-3, alpha=5e-4, antithetic=False
    )
    assert recipe.anchor == Anchor(awd=0.0, norm="l1", store="cpu", drift="float16")
    assert (recipe.task.train, recipe.task.holdout, recipe.task.rows_per_step) == (None, None, None)


@pytest.mark.parametrize(
    "table", [Model(id="tiny"), TaskSettings(name="arc"), Search(), Anchor(), Run()]
)
def test_settings_cannot_be_changed_once_checked(table):
    with pytest.raises(FrozenInstanceError, match="cannot assign"):
        setattr(table, fields(table)[0].name, "other")


@pytest.mark.parametrize("table", [Model, TaskSettings, Search, Anchor, Run])
def test_settings_are_given_by_name_alone(table):
    with pytest.raises(TypeError, match="positional"):
        table("other")


@pytest.mark.parametrize(
    ("table", "key"),
    [
        *[
            (TaskSettings, key)
            for key in ("train", "holdout", "rows_per_step", "max_new_tokens", "batch")
        ],
        *[(Search, key) for key in ("steps", "population", "seed")],
    ],
)
@pytest.mark.parametrize("value", [-1, True, 5.0, "5", math.inf, [5]])
def test_a_count_is_refused_unless_it_is_a_whole_number_in_range(table, key, value):
    required = {"name": "arc"} if table is TaskSettings else {}

    expected = f"{key} is {re.escape(as_toml(value))}, expected a whole number, "
    with pytest.raises(RecipeError, match=expected) as caught:
        table(**required, **{key: value})

    assert re.fullmatch(rf"for example {key} = \d+", caught.value.hint)


@pytest.mark.parametrize("key", ["train", "holdout", "rows_per_step", "max_new_tokens", "batch"])
def test_zero_rows_or_tokens_are_refused_and_one_is_enough(key):
    with pytest.raises(RecipeError, match=rf"\[task\] {key} is 0, expected .*, 1 or more"):
        TaskSettings(name="arc", **{key: 0})

    assert getattr(TaskSettings(name="arc", **{key: 1}), key) == 1


@pytest.mark.parametrize("antithetic", [False, True])
def test_a_population_has_two_members_at_least(antithetic):
    with pytest.raises(RecipeError, match="population is 1, expected a whole number, 2 or more"):
        Search(population=1, antithetic=antithetic)

    assert Search(population=2, antithetic=antithetic).population == 2


@pytest.mark.parametrize("seed", [0, 42, 2**63 - 1])
def test_a_seed_is_kept_as_it_is(seed):
    assert Search(seed=seed).seed == seed


def test_a_seed_beyond_63_bits_is_refused():
    with pytest.raises(RecipeError, match=r"seed is 9223372036854775808, expected .* 0 to 9"):
        Search(seed=2**63)


@pytest.mark.parametrize("key", ["sigma", "alpha"])
@pytest.mark.parametrize("value", [0, 0.0, -1e-3, math.nan, math.inf, 10**400, True, "0.1", None])
def test_a_scale_is_refused_unless_finite_and_above_zero(key, value):
    with pytest.raises(RecipeError, match=f"{key} is .*, expected a finite number, above 0"):
        Search(**{key: value})


def test_the_hint_for_a_wrong_scale_is_its_published_value():
    with pytest.raises(RecipeError, match=r"^\[search\] sigma is -1, expected") as caught:
        Search(sigma=-1)

    assert caught.value.hint == "for example sigma = 0.001"


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, 10**400, False, "0.01", None])
def test_a_decay_is_refused_unless_finite_and_not_negative(value):
    with pytest.raises(RecipeError, match=r"awd is .*, expected a finite number, 0 or more"):
        Anchor(awd=value)


def test_a_whole_number_is_fine_for_a_scale_and_kept_as_a_float():
    settings = Search(sigma=1, alpha=2)

    assert (settings.sigma, settings.alpha) == (1.0, 2.0)
    assert isinstance(settings.sigma, float)


@pytest.mark.parametrize(
    ("make", "choices"),
    [
        (lambda value: TaskSettings(name="arc", scoring=value), ("choice", "generate", "exact")),
        (lambda value: TaskSettings(name="arc", reward=value), ("correct", "prob", "logprob")),
        (
            lambda value: TaskSettings(name="arc", grader=value),
            ("exact", "contains", "number", "choice", "math"),
        ),
        (lambda value: Search(shaping=value), ("zscore", "ranks")),
        (lambda value: Anchor(norm=value), ("l1", "l2")),
        (lambda value: Anchor(store=value), ("disk", "cpu", "device")),
        (lambda value: Anchor(drift=value), ("float32", "float16", "int8")),
        (lambda value: Anchor(drift_store=value), ("cpu", "device")),
    ],
)
def test_an_enumerated_setting_takes_its_choices_and_says_them(make, choices):
    for choice in choices:
        make(choice)

    listed = " or ".join(f'"{choice}"' for choice in choices)
    for wrong in ("no such thing", 1, True, ["l1"]):
        with pytest.raises(RecipeError, match=f"expected {listed}$"):
            make(wrong)


def test_the_hint_for_a_wrong_choice_is_the_nearest():
    with pytest.raises(RecipeError, match='norm is "L2"') as caught:
        Anchor(norm="L2")

    assert caught.value.hint == 'set norm = "l2"'


@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_a_switch_is_true_or_false_and_nothing_like_it(value):
    with pytest.raises(RecipeError, match=r"antithetic is .*, expected true or false") as caught:
        Search(antithetic=value)

    assert caught.value.hint == "set antithetic = true or antithetic = false"


def test_remote_code_is_off_and_switched_on_only_by_true():
    assert Model(id="tiny").trust_remote_code is False
    with pytest.raises(RecipeError, match='trust_remote_code is "no", expected true or false'):
        Model(id="tiny", trust_remote_code="no")


@pytest.mark.parametrize(
    "make",
    [
        lambda text: Model(id=text),
        lambda text: Model(id="tiny", dtype=text),
        lambda text: Model(id="tiny", device=text),
        lambda text: TaskSettings(name=text),
        lambda text: TaskSettings(name="arc", data_dir=text),
        lambda text: Run(dir=text),
    ],
)
@pytest.mark.parametrize("text", ["", "  ", 5, False, ["a"], "half a pair \ud800"])
def test_text_is_refused_when_empty_or_not_text(make, text):
    with pytest.raises(RecipeError, match=r" is .*, expected ") as caught:
        make(text)

    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (
            lambda: Model(id=None),
            'give --model Qwen2.5-1.5B, or set id = "Qwen2.5-1.5B" under [model]',
        ),
        (lambda: TaskSettings(name=None), 'give --task arc, or set name = "arc" under [task]'),
    ],
)
def test_a_missing_model_or_task_names_the_option_that_gives_it(make, hint):
    with pytest.raises(RecipeError, match="is not set, expected") as caught:
        make()

    assert caught.value.hint == hint


def test_text_that_reads_as_a_number_gets_a_hint_to_quote_it():
    with pytest.raises(RecipeError, match=r"\[run\] dir is 2024, expected a folder") as caught:
        Run(dir=2024)

    assert caught.value.hint == """put it in quotes: dir = "2024", or --set 'run.dir="2024"'"""


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_globs_are_a_list_of_text_and_kept_as_a_tuple(key):
    assert getattr(Model(id="tiny", **{key: ["*.mlp.*", "lm_head*"]}), key) == (
        "*.mlp.*",
        "lm_head*",
    )
    for wrong in ("*.mlp.*", [1], [""], {"a": 1}):
        with pytest.raises(RecipeError, match=f"{key} is .*, expected a list of globs") as caught:
            Model(id="tiny", **{key: wrong})
        assert caught.value.hint == f'for example {key} = ["*.mlp.*"]'


def test_including_nothing_is_refused_and_excluding_nothing_is_fine():
    with pytest.raises(RecipeError, match=r"include is \[\], expected at least one glob") as caught:
        Model(id="tiny", include=[])

    assert caught.value.hint == 'set include = ["*"] for all'
    assert Model(id="tiny", exclude=[]).exclude == ()


def test_odd_antithetic_population_is_refused_with_a_fix():
    with pytest.raises(RecipeError, match="population is 31, expected an even") as caught:
        Search(population=31, antithetic=True)

    assert str(caught.value) == (
        "[search] population is 31, expected an even number: antithetic pairs the members"
    )
    assert caught.value.hint == "set population = 32, or antithetic = false"
    assert Search(population=31).population == 31


def test_a_step_cannot_take_more_rows_than_train_has():
    with pytest.raises(RecipeError, match="rows_per_step is 11, expected at most 10") as caught:
        TaskSettings(name="arc", train=10, rows_per_step=11)

    assert caught.value.hint == "set rows_per_step = 10, or train = 11"
    assert TaskSettings(name="arc", train=10, rows_per_step=10).rows_per_step == 10


def test_a_probability_as_reward_needs_options():
    with pytest.raises(RecipeError, match='reward is "prob", expected "correct"') as caught:
        TaskSettings(name="arc", reward="prob", scoring="generate")

    assert caught.value.hint == 'set reward = "logprob", or scoring = "choice"'
    for scoring in ("choice", None):
        assert TaskSettings(name="arc", reward="prob", scoring=scoring).reward == "prob"


def test_an_l2_decay_that_jumps_past_the_base_weights_is_refused_with_a_fix():
    with pytest.raises(RecipeError, match=r"awd is 3000.0, expected at most 2000 with") as caught:
        a_recipe(anchor=Anchor(awd=3000, norm="l2"))

    assert "alpha * awd is 1.5" in str(caught.value)
    assert caught.value.hint == 'set awd = 2000 or lower, or norm = "l1"'
    assert a_recipe(anchor=Anchor(awd=3000, norm="l1")).anchor.awd == 3000
    assert a_recipe(anchor=Anchor(awd=2000, norm="l2")).anchor.awd == 2000


@given(alpha=st.floats(1e-12, 1e12))
def test_the_largest_awd_that_the_hint_names_is_accepted(alpha):
    with pytest.raises(RecipeError, match="with norm l2") as caught:
        a_recipe(search=Search(alpha=alpha), anchor=Anchor(awd=2.1 / alpha, norm="l2"))

    most = float(re.search(r"awd = (\S+) or lower", caught.value.hint)[1])
    a_recipe(search=Search(alpha=alpha), anchor=Anchor(awd=most, norm="l2"))
    assert most * alpha > 0.4


def test_all_that_is_wrong_with_a_table_is_said_at_once_a_line_each():
    with pytest.raises(SettingsError, match="steps") as caught:
        Search(steps=0, sigma=0, population=7, antithetic=True)

    lines = str(caught.value).splitlines()
    assert [line.split()[1] for line in lines] == ["steps", "sigma", "population"]
    assert len(caught.value.hint.splitlines()) == 3
    assert [problem.keys[0] for problem in caught.value.problems] == [
        "search.steps",
        "search.sigma",
        "search.population",
    ]


def test_a_contradiction_is_not_reported_for_a_value_that_is_wrong_by_itself():
    with pytest.raises(SettingsError, match="train is 0") as caught:
        TaskSettings(name="arc", train=0, rows_per_step=5)

    assert len(caught.value.problems) == 1


def test_a_long_value_is_cut_in_a_message():
    with pytest.raises(RecipeError, match="…, expected a whole number") as caught:
        Search(steps="x" * 10_000)

    assert len(str(caught.value)) < 160


@pytest.mark.parametrize(("word", "meant"), [("sigm", "sigma"), ("SIGMA", "sigma"), ("zzz", None)])
def test_the_nearest_word_is_found_or_none(word, meant):
    assert nearest(word, ["alpha", "sigma"]) == meant


def test_reading_settings_imports_no_heavy_library():
    heavy = "{'torch', 'transformers', 'datasets'}"
    code = f"import sys, esft.recipe.toml; assert not {heavy} & set(sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_end_at_a_peak_needs_evaluations_to_see_it():
    with pytest.raises(SettingsError, match="stop_after_peak is 3, expected evaluations") as caught:
        Recipe(model=Model(id="m"), task=TaskSettings(name="arc"), run=Run(stop_after_peak=3))

    assert "prior.every = 25" in caught.value.hint
    Recipe(
        model=Model(id="m"),
        task=TaskSettings(name="arc"),
        prior=Prior(every=5),
        run=Run(stop_after_peak=3),
    )


def test_prior_tasks_are_lines_with_rows_and_settings_of_their_own():
    prior = Prior(tasks=["arc", " gsm8k : 100  max_new_tokens = 64 ", "a:b.jsonl:20"])

    assert prior.tasks == ("arc", "gsm8k:100 max_new_tokens=64", "a:b.jsonl:20")
    assert [(spec.name, spec.rows) for spec in prior.specs] == [
        ("arc", None), ("gsm8k", 100), ("a:b.jsonl", 20),
    ]  # fmt: skip


def test_plain_names_of_prior_tasks_are_kept_as_they_are():
    names = ("copy-letters", "arc", "my.py", "data/my rows.jsonl", r"C:\rows.jsonl", "~/x.jsonl")

    assert Prior(tasks=names).tasks == names


@pytest.mark.parametrize("tasks", ["arc", [5], [""], {"arc": 5}, [None]])
def test_prior_tasks_are_a_list_of_text(tasks):
    with pytest.raises(RecipeError, match=r"\[prior\] tasks is .*, expected a list of names"):
        Prior(tasks=tasks)


def test_everything_wrong_with_prior_tasks_is_said_at_once():
    with pytest.raises(SettingsError, match=r'\[prior\] tasks: "gsm8k:0" has rows "0"') as caught:
        Prior(tasks=["gsm8k:0", "arc", "mmlu zzz=1", "arc:5"], every=0)

    assert [problem.keys[0] for problem in caught.value.problems] == [
        "prior.tasks", "prior.tasks", "prior.tasks", "prior.every",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "tasks", [("arc", "arc"), ("arc:5", "arc split=train"), ("a/my.py", "b/my.py"), ("a_b", "A-b")]
)
def test_prior_tasks_whose_rows_would_be_kept_in_one_file_are_refused(tasks):
    with pytest.raises(RecipeError, match="are one task, expected two") as caught:
        Prior(tasks=tasks)

    assert caught.value.hint.startswith(f"take {tasks[1]} out")
