"""`esft recipes` and `esft settings`."""

import json
import re

import pytest
from command import esft

from esft.cli.options import declared_settings
from esft.models.shape import published_shapes
from esft.recipe.settings import TABLES, Anchor
from esft.recipe.toml import shipped_recipes
from esft.tuning.memory import Batch, Room, memory_of, placed


def test_every_recipe_is_listed_with_a_line_and_has_nothing_wrong():
    done, listed = esft("recipes"), json.loads(esft("recipes", "--json").stdout)

    assert [one["name"] for one in listed] == list(shipped_recipes())
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert len(done.stdout.splitlines()) == len(listed)
    flat = " ".join(done.stdout.split())
    for one in listed:
        assert one["summary"].endswith(".")
        assert f"{one['name']} {one['summary']}" in flat
        checked = esft("recipes", "check", one["name"])
        assert (checked.exit_code, checked.stderr) == (0, "")
        assert one["name"] in checked.stdout


def test_a_recipe_is_copied_as_it_is_shown_once(tmp_path):
    file = tmp_path / "my.toml"

    done, again = (esft("recipes", "copy", "quickstart", file) for _ in range(2))

    assert done.exit_code == 0, done.stderr
    assert f"esft tune {file}" in done.stdout.splitlines()
    assert file.read_text() == esft("recipes", "show", "quickstart").stdout
    assert again.exit_code == 1
    assert "exists, expected a new file" in again.stderr


def test_all_that_is_wrong_with_a_recipe_is_said_at_once_its_tasks_too(tmp_path):
    file = tmp_path / "my.toml"
    text = '[model]\nid = "m"\n[task]\nname = "arcc"\n[search]\npopulation = 1\nsigmaa = 2\n'
    file.write_text(
        text + '[prior]\ntasks = ["gsm8k", "mmlu reward=prob scoring=generate", "no"]\n'
    )

    done = esft("recipes", "check", file)

    assert done.exit_code == 2
    errors, hints = done.stderr.split("Hint: ")
    for wrong in (
        "population is 1",
        "sigmaa = 2 is not",
        "'arcc' is unknown",
        'scoring "generate"',
    ):
        assert wrong in errors
    assert all(str(file) in line for line in errors.strip().splitlines())
    assert "did you mean arc" in hints
    file.write_text(text.replace("population = 1\nsigmaa = 2\n", "").replace("arcc", "arc"))
    assert esft("recipes", "check", file).exit_code == 0
    file.write_text(file.read_text() + '[prior]\ntasks = ["nope"]\n')
    assert "[prior] task 'nope' is unknown" in esft("recipes", "check", file).stderr


# What takes the most of ARC's rows, of 64 or 2 at a time, in tokens of SmolLM2, which are shorter
# than Qwen's.
LARGEST = {
    64: Batch(sequences=29, tokens=78, targets=1082),
    2: Batch(sequences=2, tokens=141, targets=136),
}
CARDS = re.compile(r"^# +(\d+) GB   ([\d.]+) GB of the card, (.*)$", re.MULTILINE)


@pytest.mark.parametrize("size", ["0.5B", "1.5B", "3B"])
def test_a_recipe_says_what_it_takes_on_a_card_as_plan_has_it(size):
    file, shape = shipped_recipes()[f"arc-qwen2.5-{size.lower()}"], published_shapes()
    rest = shape[f"Qwen2.5-{size}"], shape[f"Qwen2.5-{size}"].numel, "cuda"
    told = CARDS.findall(file.read_text())

    assert [card for card, _, _ in told] == ["8", "12", "24"]
    for card, taken, where in told:
        fewer = re.search(r"with (\d+) options at a time", where)
        batches = [LARGEST[int(fewer[1]) if fewer else 64]]
        room = Room(device=int(card) * 10**9, host=10**15)
        anchor = placed(Anchor(), *rest, batches, room)
        memory = memory_of(*rest[:2], anchor, "cuda", batches)
        host = f"{memory.on_host / 1e9:.1f} GB of host memory"
        assert memory.fits(room)
        assert float(taken) == pytest.approx(memory.on_device / 1e9, abs=0.06)
        on_it = anchor.store == "device"
        assert where.startswith("with base weights and drift on it" if on_it else host)


def test_every_setting_is_listed_with_default_bounds_and_help_in_80_columns():
    done = esft("settings")

    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    flat = " ".join(done.stdout.split())
    for table, setting in declared_settings():
        assert f"[{table}]" in flat
        assert f"{setting.help} [{setting.takes}]" in flat
        assert setting.default is None or f" {setting.name} = " in flat
        assert setting.flag is None or f"({setting.flag})" in flat
    assert "sigma = 0.001 (--sigma)" in flat
    assert "seed: not set, drawn and recorded (--seed)" in flat


@pytest.mark.parametrize(
    ("word", "names"),
    [("--awd-norm", ["norm"]), ("SIGMA", ["sigma"]), ("zscore", ["shaping"]), ("run.dir", ["dir"])],
)
def test_settings_are_searched_by_name_option_choice_and_help(word, names):
    found = json.loads(esft("settings", "--json", "--", word).stdout)

    assert names[0] in [setting["name"] for setting in found]
    assert len(found) < len(declared_settings()) / 2


def test_settings_as_json_have_types_and_bounds_and_no_word_is_an_error():
    listed = json.loads(esft("settings", "--json").stdout)
    wrong = esft("settings", "popluation")

    assert {one["table"] for one in listed} == set(TABLES)
    by_name = {f"{one['table']}.{one['name']}": one for one in listed}
    assert by_name["search.population"]["at_least"] == 2
    assert by_name["search.population"]["at_most"] is None
    assert by_name["search.sigma"]["above"] == 0
    assert by_name["anchor.norm"]["choices"] == ["l1", "l2"]
    assert by_name["search.seed"]["unset"] == "drawn and recorded"
    assert wrong.exit_code == 2
    assert "did you mean population?" in wrong.stderr
