"""A run on a model of the hub goes on with the commit it began with, whatever main is by now."""

import json

import pytest
from loopback_hub import LoopbackHub, commit_of, run_python
from tiny_models import tiny_llama, write_model

from esft.models.find import at_commit

TUNE = """
from dataclasses import replace
from pathlib import Path
from tiny_runs import Notes, a_recipe
from esft.tuning.start import run_tuning
recipe = a_recipe(Path({folder!r}), steps=2)
recipe = replace(recipe, model=replace(recipe.model, id="org/tiny"))
run_tuning(recipe, Notes(), lambda: True)
"""
GO_ON = """
import json, shutil
from pathlib import Path
from tiny_runs import Notes, never
from esft.errors import EsftError
from esft.evals.run import EvalRequest, run_eval
from esft.export.folder import export
from esft.models.load import load_model
from esft.tuning.rebuild import RebuildOptions, find_source, rebuild
from esft.tuning.start import resume_tuning

folder = Path({folder!r})
run, notes, options = folder / "run", Notes(), RebuildOptions()
source = find_source(str(run))
shutil.copy(run / "journal.jsonl", folder / "journal.jsonl")
asked = EvalRequest(run=str(run), priors=("copy-letters:2",), kl_prompts=0)
done = {{
    "main": load_model("org/tiny").source,
    "replay": rebuild(source, "last", notes, options).proven,
    "journal": rebuild(find_source(str(folder / "journal.jsonl")), "0", notes, options).weights,
    "export": export(source, "last", folder / "out", notes, options).revision,
    "eval": run_eval(asked, notes).record.model,
    "resume": resume_tuning(run, notes, never).steps,
}}
try:
    load_model("org/tiny@gone")
except EsftError as error:
    done["gone"] = [str(error), error.hint]
print(json.dumps(done))
"""


def test_every_command_loads_the_commit_that_the_run_recorded(tmp_path):
    write_model(tmp_path / "hub" / "models" / "org" / "tiny")
    write_model(tmp_path / "hub" / "models" / "org" / "later", tiny_llama(seed=1))
    home, commit = tmp_path / "home", commit_of("org/tiny")
    with LoopbackHub(tmp_path / "hub") as hub:
        tuned = run_python(TUNE.format(folder=str(tmp_path)), endpoint=hub.url, home=home)
    assert tuned.returncode == 0, tuned.stderr
    with LoopbackHub(tmp_path / "hub", moved={"org/tiny": "org/later"}) as hub:
        later = run_python(GO_ON.format(folder=str(tmp_path)), endpoint=hub.url, home=home)
    assert later.returncode == 0, later.stderr

    done, info = json.loads(later.stdout), json.loads((tmp_path / "run" / "run.json").read_text())

    assert info["model"]["source"] == f"org/tiny@{commit}"
    assert done["main"] == f"org/tiny@{commit_of('org/later')}"
    assert done["journal"] == info["model"]["base"]
    assert (done["replay"], done["export"], done["resume"]) == (True, commit, 2)
    assert done["eval"] == f"org/tiny@{commit}"
    assert done["gone"][0].startswith(f"org/tiny@gone was not found on {hub.url}: the repository")


@pytest.mark.parametrize(
    ("name", "loaded"),
    [
        ("org/tiny", "org/tiny@0123"),
        ("org/tiny@main", "org/tiny@0123"),
        (f"org/tiny@{'a' * 40}", f"org/tiny@{'a' * 40}"),
        ("org/tiny-2", "org/tiny-2"),
        ("embedded", "embedded"),
    ],
)
def test_a_recorded_commit_counts_for_its_repository_unless_another_is_named(name, loaded):
    assert at_commit(name, "org/tiny@0123") == loaded
