"""Recipes as TOML: what is read, what is written, and what an error says."""

import math
import sys
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from esft.errors import RecipeError
from esft.recipe import toml as recipe_file
from esft.recipe.check import SettingsError
from esft.recipe.settings import GRADERS, Anchor, Model, Prior, Recipe, Run, Search, TaskSettings
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


def texts():
    return st.text(min_size=1).filter(str.strip)


def maybe(values):
    return st.none() | values


@st.composite
def recipes(draw):
    counts = st.integers(1, 10**6)
    globs = st.lists(texts(), min_size=1, max_size=3).map(tuple)
    train = draw(maybe(counts))
    scoring = draw(st.sampled_from([None, "choice", "generate", "exact"]))
    rewards = [None, "correct", "logprob"]
    if scoring in (None, "choice"):
        rewards.append("prob")
    alpha = draw(st.floats(0, exclude_min=True, allow_infinity=False))
    norm = draw(st.sampled_from(["l1", "l2"]))
    most = min(0.5 / alpha, sys.float_info.max) if norm == "l2" else sys.float_info.max
    antithetic = draw(st.booleans())
    members = draw(st.integers(1, 5000))
    return Recipe(
        model=Model(
            id=draw(texts()),
            dtype=draw(maybe(texts())),
            device=draw(maybe(texts())),
            include=draw(maybe(globs)),
            exclude=draw(maybe(globs | st.just(()))),
            trust_remote_code=draw(st.booleans()),
        ),
        task=TaskSettings(
            name=draw(texts()),
            grader=draw(st.sampled_from([None, *GRADERS])),
            train=train,
            holdout=draw(maybe(counts)),
            rows_per_step=draw(maybe(st.integers(1, train or 10**6))),
            scoring=scoring,
            reward=draw(st.sampled_from(rewards)),
            max_new_tokens=draw(maybe(counts)),
            data_dir=draw(maybe(texts())),
            batch=draw(maybe(counts)),
        ),
        search=Search(
            seed=draw(maybe(st.integers(0, 2**63 - 1))),
            steps=draw(counts),
            population=2 * members if antithetic else members + 1,
            sigma=draw(st.floats(0, exclude_min=True, allow_infinity=False)),
            alpha=alpha,
            antithetic=antithetic,
            shaping=draw(st.sampled_from(["zscore", "ranks"])),
        ),
        anchor=Anchor(
            awd=draw(st.floats(0, most)),
            norm=norm,
            drift=draw(st.sampled_from(["float16", "float32"])),
        ),
        prior=Prior(
            tasks=draw(st.sampled_from([(), ("arc",), ("gsm8k:9 split=train", '"a b=c.py":2')])),
            every=draw(maybe(counts)),
            rows=draw(counts),
        ),
        run=Run(dir=draw(maybe(texts()))),
    )


def with_text(text):
    return Recipe(model=Model(id=text, include=(text, text)), task=TaskSettings(name=text))


@given(recipe=recipes())
@example(recipe=with_text("quoted \" and ' and \"\"\" and '''"))
@example(recipe=with_text("back\\slash \\n \\u0041 C:\\new"))
@example(recipe=with_text("".join(map(chr, range(0x20))) + "\x7f\x80\x9f x"))
@example(recipe=with_text("line\r\nbreaks\rand\nmore\u2028\u2029\x85 # no comment"))
@example(recipe=with_text("é 日本語 \U0001f600 \ufeff"))
def test_a_dumped_recipe_loads_as_an_equal_recipe(recipe, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "dumped.toml"
    file.write_bytes(dump_recipe(recipe).encode())

    assert load_recipe(str(file), {}) == recipe


@given(recipe=recipes())
def test_a_dump_names_every_setting(recipe):
    text = dump_recipe(recipe)

    read = tomllib.loads(text)
    for table, settings in asdict(recipe).items():
        for key, value in settings.items():
            if value is None:
                assert f"\n# {key} = (not set: " in text
            else:
                assert key in read[table]


def test_a_dump_says_what_a_setting_that_is_not_set_means():
    text = dump_recipe(load_recipe(None, NEEDED))

    assert "# seed = (not set: one is drawn and recorded)" in text.splitlines()
    assert "# rows_per_step = (not set: all train rows in every step)" in text.splitlines()


def test_every_recipe_in_the_repository_loads_and_says_its_command():
    files = sorted(RECIPES.rglob("*.toml"))

    assert files
    for file in files:
        load_recipe(str(file), {})
        name = file.relative_to(RECIPES).with_suffix("").as_posix()
        assert f"#   esft tune {name}\n" in file.read_text(encoding="utf-8")


def test_the_arc_recipe_has_the_published_settings():
    recipe = load_recipe("arc-qwen2.5-1.5b", {})

    assert (recipe.model.id, recipe.task.name) == ("Qwen2.5-1.5B", "arc")
    assert recipe.search == Search(steps=500, population=30, sigma=1e-3, alpha=5e-4)
    assert recipe.anchor == Anchor(awd=0.01, norm="l1")


def test_recipes_are_found_inside_an_installed_package(tmp_path, monkeypatch):
    folder = tmp_path / "esft" / "recipes" / "more"
    folder.mkdir(parents=True)
    (folder / "one.toml").write_text(MINIMAL)
    monkeypatch.setattr(recipe_file, "__file__", str(tmp_path / "esft" / "recipe" / "toml.py"))

    assert shipped_recipes() == {"more/one": folder / "one.toml"}
    assert load_recipe("more/one", {}).model.id == "tiny"


def test_a_file_that_exists_is_read_whatever_its_name(write):
    assert load_recipe(write(MINIMAL, "recipe.txt"), {}).task.name == "arc"


def test_a_file_may_have_a_byte_order_mark_and_windows_line_ends(write):
    text = b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode()

    assert load_recipe(write(text), {}).model.id == "tiny"


def test_an_unknown_recipe_names_the_nearest_and_those_there_are():
    with pytest.raises(RecipeError, match=r'no recipe is called "arc-qwen2.5"') as caught:
        load_recipe("arc-qwen2.5", {})

    listed = "arc-qwen2.5-1.5b, conciseness-smollm2-135m, countdown-qwen2.5-3b, gsm8k-qwen2.5-3b"
    assert str(caught.value).endswith(f"one of: {listed}, proofwriter-qwen2.5-3b, quickstart")
    assert caught.value.hint == 'did you mean the recipe "arc-qwen2.5-1.5b"?'


@pytest.mark.parametrize("name", ["", "zzz", "a\0b", "x" * 5000, "."])
def test_a_name_that_is_nothing_like_a_recipe_gets_a_hint_too(name):
    with pytest.raises(RecipeError, match="no recipe is called") as caught:
        find_recipe(name)

    assert "--model and --task without a recipe" in caught.value.hint


def test_a_missing_file_with_the_name_of_a_shipped_recipe_hints_at_it(tmp_path):
    missing = str(tmp_path / "gone.toml")

    with pytest.raises(RecipeError, match=r"gone\.toml: no such file"):
        load_recipe(missing, {})
    with pytest.raises(RecipeError, match="no such file") as caught:
        load_recipe("arc-qwen2.5-1.5b.toml", {})
    assert caught.value.hint == 'did you mean the recipe "arc-qwen2.5-1.5b"?'


def test_a_file_that_cannot_be_read_says_why(write, monkeypatch):
    file = write(MINIMAL)

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(RecipeError, match=r"recipe\.toml: cannot be read: Permission denied"):
        load_recipe(file, {})


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[model]\nid = "tiny"\nname = arc\n', "line 3, column"),
        ("[model]\nid = ", "line 2, the last one"),
        ("[run]\n[run]\n", "line 2, column"),
        ('[model]\nid = "a"\nid = "b"\n', "line 3, column"),
    ],
)
def test_broken_toml_is_refused_with_file_and_line(write, text, place):
    with pytest.raises(RecipeError, match=rf"recipe\.toml: not valid TOML: .*{place}") as caught:
        load_recipe(write(text), {})

    assert "text is quoted" in caught.value.hint


def test_a_number_too_long_for_python_is_refused_like_broken_toml(write):
    with pytest.raises(RecipeError, match="not valid TOML: Exceeds the limit"):
        load_recipe(write("[search]\nseed = " + "9" * 5000), {})


def test_a_file_that_is_not_utf8_is_refused_with_the_byte(write):
    with pytest.raises(RecipeError, match=r"recipe\.toml: not UTF-8 at byte 6") as caught:
        load_recipe(write(b'id = "\xff"'), {})

    assert caught.value.hint == "save the recipe in UTF-8"


def test_changes_replace_the_values_of_a_file_and_leave_the_others(write):
    file = write(MINIMAL + "[search]\nsigma = 0.5\nsteps = 7\n")

    recipe = load_recipe(file, {"search.sigma": 0.25, "run.dir": "out"})

    assert recipe.search == Search(sigma=0.25, steps=7)
    assert recipe.run.dir == "out"


def test_every_setting_can_be_changed():
    other = Recipe(
        model=Model(
            id="a",
            dtype="b",
            device="c",
            include=("d",),
            exclude=("e",),
            trust_remote_code=True,
        ),
        task=TaskSettings(
            name="f",
            train=2,
            holdout=3,
            rows_per_step=1,
            scoring="choice",
            reward="prob",
            max_new_tokens=4,
            data_dir="g",
            batch=5,
        ),
        search=Search(
            seed=6, steps=7, population=8, sigma=9, alpha=10, antithetic=True, shaping="ranks"
        ),
        anchor=Anchor(awd=0.1, norm="l2", drift="float32"),
        prior=Prior(tasks=("arc:5 scoring=choice", "my.py"), every=11, rows=12),
        run=Run(dir="h"),
    )

    changes = {
        f"{table}.{key}": value
        for table, settings in asdict(other).items()
        for key, value in settings.items()
    }
    assert load_recipe(None, changes) == other


@pytest.mark.parametrize(("given", "norm"), [("", "l1"), ('[anchor]\nnorm = "l2"\n', "l2")])
def test_awd_alone_keeps_the_norm_of_the_recipe(write, given, norm):
    assert load_recipe(write(MINIMAL + given), {"anchor.awd": 0.5}).anchor == Anchor(
        awd=0.5, norm=norm
    )


def test_awd_zero_turns_the_decay_of_a_recipe_off():
    assert load_recipe("arc-qwen2.5-1.5b", {"anchor.awd": 0}).anchor.awd == 0


def test_a_recipe_without_model_or_task_names_the_options_that_give_them():
    with pytest.raises(RecipeError, match=r"\[model\] id is not set(.|\n)*name is not") as caught:
        load_recipe(None, {})

    assert "--model" in caught.value.hint
    assert "--task" in caught.value.hint


def test_a_missing_model_is_blamed_on_the_file(write):
    with pytest.raises(RecipeError, match=r"recipe\.toml: \[model\] id is not set"):
        load_recipe(write('[task]\nname = "arc"\n'), {})


def test_an_error_names_the_file_the_set_or_the_option_the_value_came_from(write):
    file = write(MINIMAL + "[search]\nsteps = 0\nsigma = 0.1\n")

    with pytest.raises(SettingsError, match="steps") as caught:
        load_recipe(
            file, {"search.sigma": -1, "search.alpha": 0}, labels={"search.alpha": "--alpha"}
        )

    assert [line.split(": [search]")[0] for line in str(caught.value).splitlines()] == [
        file,
        "--set search.sigma",
        "--alpha",
    ]


def test_a_contradiction_names_every_place_it_comes_from(write):
    file = write(MINIMAL + "[search]\npopulation = 31\n[anchor]\nawd = 3000\n")

    with pytest.raises(SettingsError, match="population") as caught:
        load_recipe(file, {"search.antithetic": True, "anchor.norm": "l2"})

    assert str(caught.value).splitlines()[0] == (
        f"{file}, --set search.antithetic: [search] population is 31, expected an even number: "
        "antithetic pairs the members"
    )
    assert f"{file}, --set anchor.norm: [anchor] awd is 3000, expected at most 2000" in str(
        caught.value
    )


def test_a_contradiction_between_tables_waits_for_sound_values():
    changes = NEEDED | {"anchor.awd": 3000, "anchor.norm": "l2", "search.alpha": math.inf}

    with pytest.raises(SettingsError, match="alpha is inf") as caught:
        load_recipe(None, changes)

    assert len(caught.value.problems) == 1


def test_a_contradiction_between_tables_is_said_beside_other_errors():
    with pytest.raises(SettingsError, match=r"id is not set(.|\n)*awd is 3000"):
        load_recipe(None, {"task.name": "arc", "anchor.awd": 3000, "anchor.norm": "l2"})


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[serch]\nsigma = 1\n", "[serch] is no table of a recipe", "did you mean [search]?"),
        ("[search]\nsigm = 1\n", "[search] sigm = 1 is no setting", "did you mean sigma?"),
        ("[search]\nawd = 1\n", "[search] awd = 1 is no setting", "awd belongs under [anchor]"),
        ("[search]\nzzz = 1\n", "[search] zzz = 1 is no setting", "take zzz out"),
        ("[search.sigma]\nx = 1\n", "[search] sigma is a table, expected a finite", "for example"),
        ("[search]\nsigma = 2020-01-01\n", "[search] sigma is 2020-01-01, expected", "for example"),
        ("[search]\nsigma = nan\n", "[search] sigma is nan, expected a finite", "for example"),
        ("[run]\ndir = 2020-01-01\n", "[run] dir is 2020-01-01, expected a folder", "in quotes"),
    ],
)
def test_a_wrong_key_or_value_is_said_with_file_and_fix(write, text, message, hint):
    file = write(MINIMAL + text)

    with pytest.raises(RecipeError, match="expected") as caught:
        load_recipe(file, {})

    assert str(caught.value).startswith(f"{file}: {message}")
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("sigma = 1\n", "sigma is 1, expected tables of settings", "[search]"),
        ("anchor = 1\n", "anchor is 1, expected tables of settings", "[anchor]"),
        ("[[run]]\n", "run is [a table], expected tables of settings", "[run]"),
    ],
)
def test_a_setting_outside_the_tables_is_said_with_its_table(write, text, message, line):
    file = write(text + MINIMAL if "[[" not in text else MINIMAL + text)

    with pytest.raises(RecipeError, match="expected") as caught:
        load_recipe(file, {})

    assert str(caught.value).startswith(f"{file}: {message}")
    assert caught.value.hint.startswith(f"begin a table with a line {line}")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("search.sigm", "--set search.sigm: [search] sigm = 1 is no setting"),
        ("serch.sigma", "--set serch.sigma: [serch] is no table of a recipe"),
    ],
)
def test_an_unknown_key_in_a_change_is_said_with_the_change(key, message):
    with pytest.raises(RecipeError, match="expected") as caught:
        load_recipe(None, NEEDED | {key: 1})

    assert str(caught.value).startswith(message)
    assert "did you mean" in caught.value.hint


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


@pytest.mark.parametrize(
    "text", ["search.sigma", "=1", "foo=1", ".sigma=1", "search.=1", "a.b.c=1"]
)
def test_a_change_without_table_or_value_is_refused_with_an_example(text):
    with pytest.raises(RecipeError, match=r"--set .*: expected table\.key=value") as caught:
        parse_change(text)

    assert caught.value.hint == "for example --set search.sigma=0.002"


def test_a_change_that_only_lacks_its_table_is_refused_with_it():
    with pytest.raises(RecipeError, match=r"--set awd=0.1: expected") as caught:
        parse_change("awd=0.1")

    assert caught.value.hint == "write --set anchor.awd=0.1"


def test_a_recipe_can_be_completed_before_it_is_written():
    recipe = load_recipe(None, NEEDED)

    drawn = replace(recipe, search=replace(recipe.search, seed=0))

    assert "seed = 0" in dump_recipe(drawn).splitlines()


def test_an_error_in_a_prior_task_names_the_file_or_option_and_the_line(write):
    file = write(f'{MINIMAL}[prior]\ntasks = ["gsm8k:0"]\n')

    with pytest.raises(RecipeError, match=r'recipe\.toml: \[prior\] tasks: "gsm8k:0" has rows "0"'):
        load_recipe(file, {})
    with pytest.raises(RecipeError, match=r'^--prior: \[prior\] tasks: "arc" and "arc:5" are one'):
        load_recipe(file, {"prior.tasks": ("arc", "arc:5")}, labels={"prior.tasks": "--prior"})
