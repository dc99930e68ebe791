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
from esft.recipe.check import SettingsError, as_toml
from esft.recipe.settings import TABLES, Anchor, Model, Prior, Recipe, Run, Search, TaskSettings
from esft.recipe.stages import Stage

NEEDED = {"model": {"id": "tiny"}, "task": {"name": "arc"}}
DECLARED = [
    (table, setting) for table, kind in TABLES.items() for setting in kind.declared().values()
]


def make(table, **values):
    return TABLES[table](**(NEEDED.get(table, {}) | values))


def of_kind(*kinds):
    """Every setting of these kinds, by its table and itself."""
    of_kinds = [(table, setting) for table, setting in DECLARED if setting.kind in kinds]
    assert of_kinds
    ids = [f"{table}.{setting.name}" for table, setting in of_kinds]
    return pytest.mark.parametrize(("table", "setting"), of_kinds, ids=ids)


def a_recipe(**tables):
    return Recipe(**({"model": Model(id="tiny"), "task": TaskSettings(name="arc")} | tables))


@pytest.mark.parametrize("table", TABLES)
def test_settings_are_given_by_name_and_cannot_be_changed_once_checked(table):
    with pytest.raises(TypeError, match="positional"):
        TABLES[table]("other")
    with pytest.raises(FrozenInstanceError, match="cannot assign"):
        setattr(make(table), fields(TABLES[table])[0].name, "other")


@pytest.mark.parametrize(("table", "setting"), DECLARED)
def test_every_setting_has_a_help_an_example_that_is_right_and_words_for_none(table, setting):
    example = setting.default if setting.example is None else setting.example

    assert setting.help
    assert not setting.help.endswith(".")
    assert setting.refusal(table, example) is None
    assert (setting.refusal(table, None) is None) == (setting.unset is not None)
    assert setting.default is not None or setting.unset is not None or setting.flag is not None


@of_kind("int")
@pytest.mark.parametrize("value", [-1, True, 5.0, "5", math.inf, [5]])
def test_a_count_is_refused_unless_it_is_a_whole_number_in_range(table, setting, value):
    expected = f"{setting.name} is {re.escape(as_toml(value))}, expected a whole number, "
    with pytest.raises(RecipeError, match=expected) as caught:
        make(table, **{setting.name: value})

    assert re.fullmatch(rf"for example {setting.name} = \d+", caught.value.hint)
    assert getattr(make(table, **{setting.name: setting.at_least}), setting.name) >= 0


@of_kind("float")
@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, 10**400, True, "0.1", []])
def test_a_scale_is_refused_unless_it_is_a_finite_number_in_range(table, setting, value):
    with pytest.raises(RecipeError, match=f"{setting.name} is .*, expected a finite number, "):
        make(table, **{setting.name: value})


@pytest.mark.parametrize(("table", "setting"), [pair for pair in DECLARED if pair[1].choices])
def test_an_enumerated_setting_takes_its_choices_and_says_them(table, setting):
    for choice in setting.choices:
        make(table, **{setting.name: choice})

    listed = " or ".join(f'"{choice}"' for choice in setting.choices)
    for wrong in ("no such thing", 1, True, ["l1"]):
        with pytest.raises(RecipeError, match=f"expected {listed}$"):
            make(table, **{setting.name: wrong})


@of_kind("bool")
@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_a_switch_is_true_or_false_and_nothing_like_it(table, setting, value):
    with pytest.raises(RecipeError, match=f"{setting.name} is .*, expected true or") as caught:
        make(table, **{setting.name: value})

    assert caught.value.hint == f"set {setting.name} = true or {setting.name} = false"


@of_kind("str")
@pytest.mark.parametrize("text", ["", "  ", 5, False, ["a"], "half a pair \ud800", "a\0b"])
def test_text_is_refused_when_empty_or_not_text(table, setting, text):
    with pytest.raises(RecipeError, match=r" is .*, expected ") as caught:
        make(table, **{setting.name: text})

    assert caught.value.hint is not None


@of_kind("tuple[str, ...]")
def test_a_list_of_text_is_kept_as_a_tuple(table, setting):
    assert getattr(make(table, **{setting.name: ["arc", "b"]}), setting.name) == ("arc", "b")
    for wrong in ("*.mlp.*", [1], [""], {"a": 1}, [None]):
        with pytest.raises(RecipeError, match=f"{setting.name} is .*, expected a list") as caught:
            make(table, **{setting.name: wrong})
        assert caught.value.hint == f"for example {setting.name} = {as_toml(setting.example)}"


@pytest.mark.parametrize(
    ("table", "values", "message", "hint"),
    [
        ("search", {"population": 1}, "population is 1, expected a whole", "population = 30"),
        ("search", {"seed": 2**63}, f"seed is {2**63}, expected a whole", "seed = 42"),
        ("search", {"sigma": 0}, "sigma is 0, expected a finite number, above 0", "sigma = 0.001"),
        ("anchor", {"norm": "L2"}, 'norm is "L2", expected "l1" or "l2"', 'set norm = "l2"'),
        ("model", {"id": None}, "id is not set, expected", "give --model Qwen2.5-1.5B, or set id"),
        ("task", {"name": None}, "name is not set", 'or set name = "arc" under [task]'),
        ("model", {"include": []}, "include is [], expected at least one", 'include = ["*"] for'),
        (
            "run",
            {"dir": 2024},
            "dir is 2024, expected text",
            """dir = "2024", or --set 'run.dir="20""",
        ),
        (
            *("search", {"population": 31, "antithetic": True}),
            "population is 31, expected an even number: antithetic pairs the members",
            "set population = 32, or antithetic = false",
        ),
        (
            *("search", {"rank": 4}, "rank is 4, expected 1: full noise has no rank"),
            'set noise = "lowrank", or rank = 1',
        ),
        (
            *("search", {"sigma_end": 0.5}, "sigma_end is 0.5, expected none: anneal is not set"),
            'set anneal = "cosine"',
        ),
        ("search", {"alpha_end": 0.5}, "alpha_end is 0.5, expected none", 'set anneal = "cosine"'),
        ("anchor", {"kl": -1.0}, "kl is -1.0, expected a finite number, 0 or more", "kl = 1.0"),
        ("anchor", {"kl_tasks": ["a 'b"]}, 'kl_tasks: "a \'b": a quote is not', "close it"),
        (
            *("task", {"train": 10, "rows_per_step": 11}, "rows_per_step is 11, expected at most"),
            "set rows_per_step = 10, or train = 11",
        ),
        (
            *("task", {"reward": "prob", "scoring": "generate"}, 'reward is "prob", expected "cor'),
            'set reward = "logprob", or scoring = "choice"',
        ),
        # A contradiction with a value that is wrong by itself is not reported.
        ("task", {"train": 0, "rows_per_step": 5}, "train is 0, expected", "train = 200"),
    ],
)
def test_a_wrong_value_is_refused_with_a_fix(table, values, message, hint):
    with pytest.raises(SettingsError, match=f"^{re.escape(f'[{table}] {message}')}") as caught:
        make(table, **values)

    assert len(caught.value.problems) == 1
    assert hint in caught.value.hint


def test_an_l2_decay_that_jumps_past_the_base_weights_is_refused_with_a_fix():
    with pytest.raises(RecipeError, match=r"awd is 3000.0, expected at most 2000 with") as caught:
        a_recipe(anchor=Anchor(awd=3000, norm="l2"))

    assert "alpha * awd is 1.5" in str(caught.value)
    assert caught.value.hint == 'set awd = 2000 or lower, or norm = "l1"'
    assert a_recipe(anchor=Anchor(awd=3000, norm="l1")).anchor.awd == 3000


@given(alpha=st.floats(1e-12, 1e12))
def test_the_largest_awd_that_the_hint_names_is_accepted(alpha):
    with pytest.raises(RecipeError, match="with norm l2") as caught:
        a_recipe(search=Search(alpha=alpha), anchor=Anchor(awd=2.1 / alpha, norm="l2"))

    most = float(re.search(r"awd = (\S+) or lower", caught.value.hint)[1])
    a_recipe(search=Search(alpha=alpha), anchor=Anchor(awd=most, norm="l2"))
    assert most * alpha > 0.4


@pytest.mark.parametrize(
    ("search", "anchor", "message", "hint"),
    [
        ({}, {"awd": 1e-320}, "awd is 1e-320, expected 0 for none, or more", "awd = 0.01"),
        ({}, {"awd": 1e-320, "norm": "l2"}, "awd is 1e-320, expected 0 for none", "awd = 0.01"),
        ({"alpha": 1e200}, {"awd": 1e200}, "expected less: alpha * awd is inf", "awd = 0.01"),
        (
            *({"steps": 10**12}, {"awd": 0.01}),
            "steps is 1000000000000, expected at most 100000 with norm l1, whose forecast is",
            'set steps = 100000, or norm = "l2"',
        ),
    ],
)
def test_a_decay_that_cannot_be_worked_with_is_refused(search, anchor, message, hint):
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        a_recipe(search=Search(**search), anchor=Anchor(**anchor))

    assert hint in caught.value.hint
    a_recipe(search=Search(steps=10**12), anchor=Anchor(awd=1.0, norm="l2"))


@pytest.mark.parametrize(("anneal", "share"), [("linear", 0.25), ("cosine", 0.146447)])
def test_annealing_falls_from_the_start_to_the_end(anneal, share):
    search = Search(steps=9, sigma=2.0, alpha=4.0, anneal=anneal, sigma_end=0.5, alpha_end=0.25)

    scales = [search.at(step) for step in range(1, 10)]

    assert scales[0] == (2.0, 4.0)
    assert scales[2] == pytest.approx((2 - share * 1, 4 - share * 3), rel=1e-5)
    assert scales[4] == pytest.approx((1.5, 2.5))
    assert scales[-1] == pytest.approx((1.0, 1.0))
    assert scales == sorted(scales, reverse=True)


def test_what_nothing_is_said_of_stays_or_ends_as_the_settings_say():
    assert Search(steps=3, sigma=2.0, alpha=4.0).at(3) == (2.0, 4.0)
    assert Search(steps=1, sigma=2.0, alpha=4.0, anneal="linear").at(1) == (2.0, 4.0)
    ends = Search(steps=3, sigma=2.0, alpha=4.0, anneal="linear").at(3)
    assert ends == pytest.approx((2.0, 0.4))
    assert Search.declared()["sigma_end"].unset == "1 with anneal"
    assert Search.declared()["alpha_end"].unset == "0.1 with anneal"


def test_an_annealed_run_has_the_steps_that_its_forecast_can_go_through():
    with pytest.raises(SettingsError, match="expected at most 100000 with anneal"):
        a_recipe(search=Search(steps=10**12, anneal="cosine"))


def test_a_population_that_no_journal_holds_is_refused_with_the_reason():
    with pytest.raises(RecipeError, match="at most 100000: a line of the journal holds") as caught:
        Search(population=10**30)

    assert caught.value.hint == "set population = 100000, and more steps"


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({"kl": 1.0}, "kl is 1.0, expected prompts to measure it on", "add --prior TASK"),
        ({"max_kl": 0.1}, "max_kl is 0.1, expected prompts to measure it on", "--prior TASK"),
        ({"kl_tasks": ["gsm8k"]}, "expected none: kl is 0 and max_kl not", "or max_kl = 0.05"),
        ({"kl_per_step": 4, "max_kl": 0.1}, "kl_per_step is 4, expected none: kl is 0", "kl = 1.0"),
    ],
)
def test_a_kl_needs_prompts_and_prompts_need_a_kl(values, message, hint):
    with pytest.raises(SettingsError, match=message) as caught:
        a_recipe(anchor=Anchor(**values))

    assert hint in caught.value.hint


def test_an_anchor_that_moves_needs_a_pull_towards_it():
    with pytest.raises(SettingsError, match='"none": awd and kl are 0, so that nothing') as caught:
        a_recipe(anchor=Anchor(move="ema"))

    assert caught.value.hint == "set awd = 0.01, or kl = 1.0"


def test_an_anchor_follows_by_its_share_and_one_that_stays_has_none():
    assert [Anchor().follows, Anchor(move="ema").follows] == [0, 0.02]
    assert [Anchor(move="ema", tau=tau).follows for tau in (0.0, 0.3, 1.0)] == [0, 0.3, 1]
    with pytest.raises(SettingsError, match=r"tau is 0\.1, expected none: move is") as caught:
        Anchor(tau=0.1)
    assert caught.value.hint == 'set move = "ema"'


def test_an_anchor_that_moves_has_the_steps_that_its_forecast_can_go_through():
    moving = Anchor(move="ema", awd=0.1, norm="l2")

    with pytest.raises(SettingsError, match="expected at most 100000 with move"):
        a_recipe(search=Search(steps=10**12), anchor=moving)


def test_codes_whose_drift_is_replayed_have_no_anchor_that_moves():
    anchor = Anchor(move="ema", kl=1.0, kl_tasks=("gsm8k",), drift="replay")

    with pytest.raises(SettingsError, match="the anchor follows a drift that is kept") as caught:
        a_recipe(model=Model(id="a", weights="int4"), anchor=anchor)

    assert caught.value.hint == 'set drift = "int8", or move = "none"'


@pytest.mark.parametrize("budget", ["max_kl", "max_drift"])
def test_a_budget_needs_evaluations_a_drift_that_can_decay_and_a_run_of_one_task(budget):
    limit = {budget: 0.5, "kl_tasks": ["gsm8k"] if budget == "max_kl" else None}

    with pytest.raises(SettingsError, match=f"{budget} is 0.5, expected evaluations") as caught:
        a_recipe(anchor=Anchor(**limit))
    assert "prior.every = 10" in caught.value.hint
    with pytest.raises(SettingsError, match=f"{budget} is 0.5, expected none: drift is replay"):
        a_recipe(anchor=Anchor(**limit, drift="replay"), prior=Prior(every=2))
    stage = Stage(steps=2, changes={"task.name": "gsm8k"})
    with pytest.raises(SettingsError, match="max_kl or max_drift is set, expected none of a chain"):
        a_recipe(anchor=Anchor(**limit), prior=Prior(every=2), stages=(stage,))
    long = Search(steps=200_000)
    with pytest.raises(SettingsError, match="at most 100000 with norm l1"):
        a_recipe(anchor=Anchor(**limit), prior=Prior(every=2), search=long)
    a_recipe(anchor=Anchor(**limit), prior=Prior(every=2))


def test_an_end_at_a_peak_needs_evaluations_to_see_it():
    with pytest.raises(SettingsError, match="stop_after_peak is 3, expected evaluations") as caught:
        a_recipe(run=Run(stop_after_peak=3))

    assert "prior.every = 25" in caught.value.hint


def test_all_that_is_wrong_with_a_table_is_said_at_once_a_line_each_long_values_cut():
    with pytest.raises(SettingsError, match="…, expected a whole number") as caught:
        Search(steps="x" * 10_000, sigma=0, population=7, antithetic=True)

    lines = str(caught.value).splitlines()
    assert [line.split()[1] for line in lines] == ["steps", "sigma", "population"]
    assert max(map(len, lines)) < 160
    assert len(caught.value.hint.splitlines()) == 3


def test_reading_settings_imports_no_heavy_library():
    heavy = "{'torch', 'transformers', 'datasets', 'esft.tasks.registry'}"
    code = f"import sys, esft.recipe.toml; assert not {heavy} & set(sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "tasks", [("arc", "arc"), ("arc:5", "arc split=train"), ("a/my.py", "b/my.py"), ("a_b", "A-b")]
)
def test_prior_tasks_whose_rows_would_be_kept_in_one_file_are_refused(tasks):
    with pytest.raises(RecipeError, match="the task is there before, expected each once") as caught:
        Prior(tasks=tasks)

    assert f'[prior] tasks has "{tasks[0]}"' in str(caught.value)
