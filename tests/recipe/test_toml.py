"""Recipes as TOML: what is read, what is written, and what an error says."""

import math
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esft.errors import RecipeError
from esft.recipe.check import SettingsError
from esft.recipe.rules import MEMBERS, SIMULATED
from esft.recipe.search import CODED_SCALES
from esft.recipe.settings import (
    TABLES,
    Anchor,
    Model,
    Recipe,
    Search,
    TaskSettings,
    settings_of,
)
from esft.recipe.toml import dump_recipe, find_recipe, load_recipe, parse_change, shipped_recipes

RECIPES = Path(__file__).parents[2] / "recipes"
NEEDED = {"model.id": "tiny", "task.name": "arc"}
MINIMAL = '[model]\nid = "tiny"\n[task]\nname = "arc"\n'


@pytest.fixture
def write(tmp_path):
    def write(text, name="recipe.toml"):
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(file)

    return write


def values_of(setting):
    """What a setting takes, each by itself."""
    texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
    texts = texts.filter(str.strip)
    values = {
        "str": st.sampled_from(setting.choices) if setting.choices else texts,
        "int": st.integers(int(max(setting.at_least, 0)), int(min(setting.at_most, 2**63))),
        "float": st.floats(0, setting.at_most, exclude_min=True),
        "bool": st.booleans(),
        "tuple[str, ...]": st.lists(texts, min_size=1, max_size=3).map(tuple),
    }[setting.kind]
    return values if setting.unset is None else st.none() | values


@st.composite
def recipes(draw):
    values = {
        f"{table}.{name}": draw(values_of(setting))
        for table, kind in TABLES.items()
        for name, setting in kind.declared().items()
        if name not in ("tasks", "kl_tasks", "columns")
    }
    values["task.columns"] = draw(st.sampled_from([None, "prompt=a.b,answer=c"]))
    lines = [(), ("arc",), ("gsm8k:9 split=train", "'a b=c.py:2'")]
    values["prior.tasks"] = draw(st.sampled_from(lines))
    values["anchor.kl_tasks"] = draw(st.sampled_from([None, ("gsm8k", "arc:9", "a/b c.txt")]))
    # What values must fulfil together.
    if values["anchor.drift"] == "replay":
        values["model.weights"], values["search.noise"], values["anchor.awd"] = "int4", "full", 0.0
        values["anchor.move"] = "none"
    values["search.population"] *= 1 + values["search.antithetic"]
    if values["search.noise"] == "full":
        values["search.rank"] = 1
    if values["task.scoring"] in ("generate", "exact"):
        values["task.reward"] = None
    if values["task.train"] is not None:
        values["task.rows_per_step"] = draw(st.integers(1, values["task.train"]))
    values["search.population"] = min(values["search.population"], MEMBERS)
    if values["anchor.awd"] > 0:
        values["search.alpha"] = draw(st.floats(1e-100, 1e100))
        values["anchor.awd"] = 0.5 / values["search.alpha"]
    moves = values["anchor.move"] != "none"
    if values["anchor.norm"] == "l1" or values["search.anneal"] is not None or moves:
        values["search.steps"] = min(values["search.steps"], SIMULATED)
    if values["search.anneal"] is None:
        values["search.sigma_end"] = values["search.alpha_end"] = None
    if not values["prior.tasks"] and values["anchor.kl_tasks"] is None:
        values["anchor.kl"] = 0.0
        values["anchor.kl_prompts"] = values["anchor.kl_per_step"] = values["anchor.max_kl"] = None
    pulls = values["anchor.awd"] or values["anchor.kl"]
    if not pulls or values["anchor.move"] == "stage":
        values["anchor.move"] = "none"
    if values["anchor.move"] == "none":
        values["anchor.tau"] = None
    budgets = ("anchor.max_kl", "anchor.max_drift")
    if values["anchor.drift"] == "replay":
        values |= dict.fromkeys(budgets)
    if any(values[key] is not None for key in ("run.stop_after_peak", *budgets)):
        values["prior.every"] = 1
    return values, load_recipe(None, values)


@settings(max_examples=50)
@given(recipes())
def test_every_setting_can_be_changed_is_dumped_and_loads_again(tmp_path_factory, made):
    values, recipe = made
    file = tmp_path_factory.getbasetemp() / "dumped.toml"
    file.write_bytes(dump_recipe(recipe).encode())

    read = tomllib.loads(file.read_text())
    assert settings_of(recipe) == {
        key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
    }
    assert load_recipe(str(file), {}) == recipe
    for table, kind in TABLES.items():
        given = {name for name in kind.declared() if values[f"{table}.{name}"] is not None}
        assert read[table].keys() == given


def test_text_of_any_kind_is_dumped_and_loads_again(write):
    text = "quoted \" and ' and \"\"\" and ''' back\\slash \\n \\u0041 C:\\new é 日本語 \ufeff"
    text += "".join(map(chr, range(1, 0x20))) + "\x7f\x80\x9f\U0001f600\r\n\u2028\u2029\x85 # none"
    recipe = Recipe(model=Model(id=text, include=(text, text)), task=TaskSettings(name=text))

    assert load_recipe(write(dump_recipe(recipe)), {}) == recipe


def test_a_dump_says_what_a_setting_that_is_not_set_means():
    lines = dump_recipe(load_recipe(None, NEEDED)).splitlines()

    assert "# seed = (not set: drawn and recorded)" in lines
    assert "# rows_per_step = (not set: all train rows in every step)" in lines


def test_every_recipe_in_the_repository_loads_and_says_its_command():
    files = sorted(RECIPES.rglob("*.toml"))

    assert len(files) > 3
    for file in files:
        load_recipe(str(file), {})
        name = file.relative_to(RECIPES).with_suffix("").as_posix()
        assert f"#   esft tune {name}\n" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", ["esft/recipes", "recipes"])
def test_recipes_are_found_inside_an_installed_package_or_beside_it(folder, tmp_path):
    file = tmp_path / folder / "more" / "one.toml"
    file.parent.mkdir(parents=True)
    file.write_text(MINIMAL)

    assert shipped_recipes(tmp_path / "esft") == {"more/one": file}


def test_a_file_may_have_any_name_a_byte_order_mark_and_windows_line_ends(write):
    text = b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode()

    assert load_recipe(write(text, "recipe.txt"), {}).model.id == "tiny"


OTHERWISE = "give the path of a .toml file, or --model and --task without a recipe"
ARC = 'did you mean the recipe "arc-qwen2.5-1.5b"?'


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        (
            "arc-qwen2.5-1.5",
            'no recipe is called "arc-qwen2.5-1.5", expected a file or one of: ',
            ARC,
        ),
        ("arc-qwen2.5-1.5b.toml", "arc-qwen2.5-1.5b.toml: no such file", ARC),
        ("gone/zzz.toml", "gone/zzz.toml: no such file", OTHERWISE),
        *((name, "no recipe is called", OTHERWISE) for name in ("", "a\0b", "x" * 5000, ".")),
    ],
)
def test_a_recipe_that_is_not_there_is_named_with_a_hint(name, message, hint):
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}") as caught:
        find_recipe(name)

    assert caught.value.hint == hint
    assert message.endswith("file") or ", ".join(shipped_recipes()) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[model]\nid = "tiny"\nname = arc\n', "not valid TOML: .*line 3, column"),
        ("[model]\nid = ", "not valid TOML: .*line 2, the last one"),
        ('[model]\nid = "a"\nid = "b"\n', "not valid TOML: .*line 3, column"),
        ("[search]\nseed = " + "9" * 5000, "not valid TOML: Exceeds the limit"),
        ("[model]\ninclude = " + "[" * 3000 + "]" * 3000, "not valid TOML: maximum recursion"),
        (b'\nid = "\xff"', "line 2 is not UTF-8"),
    ],
)
def test_a_file_that_is_not_toml_is_refused_with_its_place_and_a_fix(write, content, message):
    with pytest.raises(RecipeError, match=rf"recipe\.toml:? {message}") as caught:
        load_recipe(write(content), {})

    assert re.search("text is quoted|save the file in UTF-8", caught.value.hint)


def test_changes_replace_the_values_of_a_file_and_leave_the_others(write):
    file = write(MINIMAL + "[search]\nsigma = 0.5\nsteps = 7\n")

    recipe = load_recipe(file, {"search.sigma": 0.25, "run.dir": "out"})

    assert recipe.search == Search(sigma=0.25, steps=7)
    assert recipe.run.dir == "out"
    assert load_recipe("gsm8k-qwen2.5-3b", {"anchor.awd": 0.5}).anchor == Anchor(awd=0.5, norm="l2")


def test_an_error_names_every_file_set_and_option_the_values_come_from(write):
    file = write(
        MINIMAL + "[search]\nsteps = 0\nsigma = 0.1\npopulation = 31\n[anchor]\nawd = 3000\n"
    )
    changes = {"search.sigma": -1, "search.sigm": 1, "serch.sigma": 1, "search.antithetic": True}

    with pytest.raises(SettingsError, match="steps") as caught:
        load_recipe(file, changes | {"anchor.norm": "l2"}, labels={"search.sigma": "--sigma"})

    assert [
        line.split(",")[0]
        for line in str(caught.value).replace(f"{file}, ", f"{file} ").splitlines()
    ] == [
        "--set serch.sigma: [serch] is not a table of a recipe",
        "--set search.sigm: [search] sigm = 1 is not a setting",
        f"{file}: [search] steps is 0",
        "--sigma: [search] sigma is -1",
        f"{file} --set search.antithetic: [search] population is 31",
        f"{file} --set anchor.norm: [anchor] awd is 3000",
    ]


def test_a_contradiction_between_tables_waits_for_sound_values():
    changes = NEEDED | {"anchor.awd": 3000, "anchor.norm": "l2", "search.alpha": math.inf}

    with pytest.raises(SettingsError, match="alpha is inf") as caught:
        load_recipe(None, changes)

    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[serch]\nsigma = 1\n", "[serch] is not a table of a recipe", "did you mean [search]?"),
        ("[search]\nsigm = 1\n", "[search] sigm = 1 is not a setting", "did you mean sigma?"),
        ("[search]\nawd = 1\n", "[search] awd = 1 is not a setting", "awd belongs under [anchor]"),
        ("[search]\nzzz = 1\n", "[search] zzz = 1 is not a setting", "take zzz out"),
        ("[search.sigma]\nx = 1\n", "[search] sigma is a table, expected a finite", "for example"),
        ("[search]\nsigma = 2020-01-01\n", "[search] sigma is 2020-01-01, expected", "for example"),
        ("[search]\nsigma = nan\n", "[search] sigma is nan, expected a finite", "for example"),
        ("[[run]]\n", "run is [a table], expected tables of settings", "a line [run]"),
        ("sigma = 1\n", "sigma is 1, expected tables of settings", "a line [search]"),
        ("anchor = 1\n", "anchor is 1, expected tables of settings", "a line [anchor]"),
        ("[run]\ndir = 2020-01-01\n", "[run] dir is 2020-01-01, expected text", "in quotes"),
    ],
)
def test_a_wrong_key_or_value_is_said_with_file_and_fix(write, text, message, hint):
    file = write(text + MINIMAL)

    with pytest.raises(RecipeError, match="expected") as caught:
        load_recipe(file, {})

    assert str(caught.value).startswith(f"{file}: {message}")
    assert hint in caught.value.hint


@pytest.mark.parametrize("depth", [2, 3, 30, 300])
def test_lists_in_lists_are_refused_as_such_at_any_depth(write, depth):
    file = write(f"{MINIMAL}[prior]\ntasks = {'[' * depth}{']' * depth}\n")

    with pytest.raises(RecipeError, match="tasks is a list of lists, expected a list of texts"):
        load_recipe(file, {})


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        ("[search]\n", "4,990 more keys are not settings of \\[search\\] either"),
        ("", "4,990 more keys are not tables of a recipe either"),
    ],
)
def test_of_thousands_of_unknown_keys_a_handful_is_said_and_the_rest_counted(write, head, rest):
    file = write(head + "".join(f"{'k' * 100}{n} = {n}\n" for n in range(5000)))

    with pytest.raises(RecipeError, match=rf"recipe\.toml: {rest}") as caught:
        load_recipe(file, {})

    assert len(str(caught.value).splitlines()) == 13  # 10, the count, and the two that are needed
    assert max(map(len, str(caught.value).splitlines())) < 400


KNOWN = [*TABLES, *(name for kind in TABLES.values() for name in kind.declared())]
VALUES = [
    "1",
    "-1",
    "0",
    "1e-320",
    "1e308",
    "nan",
    "inf",
    "true",
    "2026-01-01",
    "9" * 30,
    '"arc"',
    "'",
]
VALUES += [
    '"l2"',
    '"a\\u0000b"',
    '"\\uFFFF"',
    "''",
    '"exact"',
    '"x.jsonl"',
    "[",
    "}",
    '"',
    "{a = {b = 1}}",
]
VALUES += [
    "[]",
    "[[]]",
    '["arc"]',
    '["arc:0", "arc"]',
    "[1, [2]]",
    "{}",
    "[{}]",
    "30",
    "0.5",
    '"float16"',
]
FORMS = [
    "{key} = {value}",
    "{key} = {value}",
    "{key}.a = {value}",
    "[{key}]",
    "[[{key}]]",
    "{value}",
]


def lines():
    """Lines of TOML or nearly: the head of a table, or a key and a value of any shape."""
    keys, values = st.sampled_from(KNOWN) | st.text(max_size=4), st.sampled_from(VALUES)
    return st.builds(
        lambda form, key, value: form.format(key=key, value=value),
        st.sampled_from(FORMS), keys, values | st.text(max_size=5),
    )  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(["", MINIMAL]), st.lists(lines(), max_size=6))
def test_a_recipe_of_any_shape_loads_or_is_refused_in_words(tmp_path_factory, head, written):
    file = tmp_path_factory.getbasetemp() / "shape.toml"
    file.write_bytes((head + "\n".join(written)).encode(errors="surrogatepass"))

    recipe, refused = None, str(file)
    try:
        recipe = load_recipe(str(file), {})
    except RecipeError as error:
        refused = str(error)

    assert refused.startswith(str(file))
    assert len(refused) < 20_000
    if recipe is not None:
        file.write_bytes(dump_recipe(recipe).encode())
        assert load_recipe(str(file), {}) == recipe


def test_everything_wrong_with_a_recipe_is_said_at_once_a_line_each(write):
    file = write(
        "[serch]\nx = 1\n[model]\ndtype = 4\n[task]\nname = 5\ntrain = 9\nrows_per_step = 300\n"
        '[search]\nsigm = 3\nsteps = 5.0\n[anchor]\nawd = 3000\nnorm = "l2"\n'
    )

    with pytest.raises(RecipeError, match="serch") as caught:
        load_recipe(file, {"run.dir": 5})

    lines = str(caught.value).splitlines()
    expected = "[serch]/id is not set/dtype is 4/name is 5/rows_per_step is 300/sigm = 3/"
    expected += "steps is 5.0/dir is 5/awd is 3000"
    for words in expected.split("/"):
        assert sum(words in line for line in lines) == 1, words
    assert len(lines) == len(expected.split("/"))


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("search.sigma=0.002", ("search.sigma", 0.002)),
        ("search.steps = 5", ("search.steps", 5)),
        ("search.antithetic=true", ("search.antithetic", True)),
        ('model.include=["*.mlp.*"]', ("model.include", ["*.mlp.*"])),
        ('run.dir="2024"', ("run.dir", "2024")),
        ("model.id=Qwen2.5", ("model.id", "Qwen2.5")),
        ("model.id=./a=b.gguf", ("model.id", "./a=b.gguf")),
        ("run.dir=2026-03-01", ("run.dir", "2026-03-01")),
        ("run.dir={a = 1}", ("run.dir", "{a = 1}")),
        ("run.dir=1\nb = 2", ("run.dir", "1\nb = 2")),
        ("run.dir=", ("run.dir", "")),
    ],
)
def test_a_change_is_a_key_with_a_toml_value_or_else_text(text, change):
    assert parse_change(text) == change


@pytest.mark.parametrize("text", ["search.sigma", "=1", "foo=1", "search.=1", "a.b.c=1", "awd=1"])
def test_a_change_without_table_or_value_is_refused_with_an_example(text):
    with pytest.raises(RecipeError, match=r"--set .*: expected table\.key=value") as caught:
        parse_change(text)

    fix = "write --set anchor.awd=1" if text == "awd=1" else "for example --set search.sigma=0.002"
    assert caught.value.hint == fix


def test_an_error_in_a_prior_task_names_the_file_or_option_and_the_line(write):
    file = write(f'{MINIMAL}[prior]\ntasks = ["gsm8k:0"]\n')

    with pytest.raises(RecipeError, match=r'recipe\.toml: \[prior\] tasks: "gsm8k:0": rows is 0'):
        load_recipe(file, {})
    with pytest.raises(RecipeError, match=r'^--prior: \[prior\] tasks: "arc:5": the task'):
        load_recipe(file, {"prior.tasks": ("arc", "arc:5")}, labels={"prior.tasks": "--prior"})


# Sigma and alpha of codes, which are in steps of the grid


def scales_of(name, **changes):
    search = load_recipe(
        name, {f"model.{k}" if k == "weights" else f"search.{k}": v for k, v in changes.items()}
    ).search
    return search.sigma, search.alpha


OF_FLOATS = MINIMAL + "[search]\nsigma = 0.004\nalpha = 0.06\n"


@pytest.mark.parametrize("weights", CODED_SCALES)
def test_weights_that_are_named_bring_their_own_sigma_and_alpha(weights, write):
    file, (sigma, alpha) = write(OF_FLOATS), CODED_SCALES[weights]
    assert scales_of(file) == (0.004, 0.06) != (sigma, alpha)

    assert scales_of(file, weights=weights) == (sigma, alpha)
    assert scales_of(file, weights=weights, sigma=0.02) == (0.02, alpha)
    assert scales_of(file, weights=weights, alpha=1.0) == (sigma, 1.0)
    assert scales_of(file, weights=weights, sigma=0.02, alpha=1.0) == (0.02, 1.0)


def test_noise_of_low_rank_leaves_codes_the_sigma_and_alpha_of_floats(write):
    text = MINIMAL.replace("[task]", 'weights = "int4"\n[task]') + "[search]\nsigma = 0.3\n"
    floats, codes = write(OF_FLOATS, "floats.toml"), write(text, "codes.toml")
    shared = write(OF_FLOATS + 'noise = "lowrank"\n', "shared.toml")

    assert scales_of(floats, weights="int8", noise="lowrank") == (0.004, 0.06)
    assert scales_of(floats, weights="int8", noise="lowrank", sigma=0.02) == (0.02, 0.06)
    assert scales_of(codes, noise="lowrank") == (Search().sigma, Search().alpha)
    assert scales_of(shared, weights="int4") == (0.004, 0.06)
    assert scales_of(shared, weights="int4", noise="full") == CODED_SCALES["int4"]


def test_weights_of_floats_leave_sigma_and_alpha_alone(write):
    assert scales_of(write(OF_FLOATS), weights="float") == (0.004, 0.06)
    assert load_recipe(None, NEEDED | {"model.weights": "float"}).search == Search()


def test_a_recipe_with_weights_keeps_its_own_sigma_and_lacks_none(write):
    head = MINIMAL.replace("[task]", 'weights = "int4"\n[task]')
    own = write(head + "[search]\nsigma = 0.05\nalpha = 0.5\n", "own.toml")
    half = write(head + "[search]\nsigma = 0.05\n", "half.toml")
    none = write(head, "none.toml")

    assert scales_of(own) == (0.05, 0.5)
    assert scales_of(half) == (0.05, CODED_SCALES["int4"][1])
    assert scales_of(none) == CODED_SCALES["int4"]
    assert scales_of(own, sigma=0.2) == (0.2, 0.5)


def test_other_weights_than_those_of_a_recipe_do_not_take_its_sigma(write):
    text = MINIMAL.replace("[task]", 'weights = "int4"\n[task]') + "[search]\nsigma = 0.05\n"

    assert scales_of(write(text), weights="int8") == CODED_SCALES["int8"]


def test_a_recipe_of_codes_is_written_with_the_scales_that_it_took(write):
    recipe = load_recipe(None, NEEDED | {"model.weights": "int8"})

    again = load_recipe(write(dump_recipe(recipe)), {})

    assert again == recipe
    assert (again.search.sigma, again.search.alpha) == CODED_SCALES["int8"]


def test_floats_in_place_of_the_codes_of_a_recipe_do_not_take_its_sigma(write):
    text = MINIMAL.replace("[task]", 'weights = "int4"\n[task]') + "[search]\nsigma = 0.05\n"

    assert scales_of(write(text), weights="float") == (Search().sigma, Search().alpha)


def test_weights_that_there_are_not_are_refused_with_those_that_there_are():
    with pytest.raises(SettingsError, match=r'weights is "int3", expected .*"int8"'):
        load_recipe(None, NEEDED | {"model.weights": "int3"})
