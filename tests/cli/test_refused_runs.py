"""A run whose journal or base model is not what run.json says: every command refuses it by name."""

import json
import shutil
from dataclasses import replace

import pytest
from command import esft
from tiny_models import change_config
from tiny_runs import Notes, a_recipe

from esft.recipe.settings import Run
from esft.tuning.start import run_tuning

COMMANDS = {
    "resume": "resume RUN",
    "replay": "replay RUN --out OUT",
    "export": "export RUN --out OUT",
    "export --journal": "export RUN --journal --from-base --out OUT",
    "eval": "eval RUN --prior copy-letters:2 --kl-prompts 0",
    "verify": "verify RUN --quick",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a base model and two runs on it that were stopped after two steps."""
    folder = tmp_path_factory.mktemp("made")
    for seed, name in ((1, "run"), (2, "other")):
        recipe = replace(a_recipe(folder, seed=seed), run=Run(dir=str(folder / name)))
        notes = Notes()
        run_tuning(recipe, notes, lambda notes=notes: len(notes.steps) == 2)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it, to damage; its run has its base model there."""
    folder = shutil.copytree(made, tmp_path / "copy")
    recipe = folder / "run" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(str(made), str(folder)))
    return folder


def outcome(command, folder):
    out = folder / "out"
    words = COMMANDS[command].replace("RUN", str(folder / "run")).replace("OUT", str(out)).split()
    done = esft(*words)
    return done, " ".join((done.stdout + done.stderr).split()), out.exists()


def another_journal(folder):
    shutil.copy(folder / "other" / "journal.jsonl", folder / "run" / "journal.jsonl")


def another_journal_before_a_model_was_saved(folder):
    another_journal(folder)
    info = json.loads((folder / "run" / "run.json").read_text())
    del info["saved"]
    (folder / "run" / "run.json").write_text(json.dumps(info | {"state": "running"}))


def a_cut_journal(folder):
    path = folder / "run" / "journal.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))


def another_config(folder):
    change_config(folder / "base", rms_norm_eps=0.1)


def another_template(folder):
    (folder / "base" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")


def another_tokenizer(folder):
    path = folder / "base" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["merges"] = []
    path.write_text(json.dumps(tokenizer))


def other_stop_tokens(folder):
    path = folder / "base" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 7}))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (another_journal, "journal.jsonl is another journal: step"),
        (another_journal_before_a_model_was_saved, "journal.jsonl is another journal: step 0"),
        (a_cut_journal, "journal.jsonl has 1 step, expected 2, which were saved, as run.json says"),
        (another_config, "config"),
    ],
)
def test_what_is_not_the_runs_is_refused_and_nothing_written(folder, damage, words, command):
    before = (folder / "run" / "run.json").read_text()
    damage(folder)
    changed = (folder / "run" / "run.json").read_text()
    assert (changed != before) == ("before" in damage.__name__)

    done, said, written = outcome(command, folder)

    assert done.exit_code == 1, said
    assert words in said
    assert not written
    assert (folder / "run" / "run.json").read_text() == changed


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (another_config, "config"),
        (another_template, "chat template"),
        (another_tokenizer, "tokenizer"),
        (other_stop_tokens, "stop tokens"),
    ],
)
@pytest.mark.parametrize("command", ["resume", "replay"])
def test_the_part_of_the_base_model_that_is_another_is_named(folder, damage, part, command):
    damage(folder)

    _, said, _ = outcome(command, folder)

    refusals = {
        "resume": f"is not as it was: {part} of the base model is sha256",
        "replay": f"has the weights of the base model of {folder}/run/journal.jsonl, but another "
        f"{part}, expected what the run was made with",
    }
    assert refusals[command] in said


def test_a_run_as_it_was_is_taken_by_every_command(folder):
    for command in COMMANDS:
        shutil.rmtree(folder / "out", ignore_errors=True)
        (folder / "out").unlink(missing_ok=True)
        done, said, _ = outcome(command, folder)
        assert done.exit_code == 0, said
