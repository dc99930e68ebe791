import json
import shlex

import pytest
from command import esft
from transformers import AutoModelForCausalLM

from esft.runs.records import best_step, scores


def test_the_model_is_written_and_the_comparison_said_in_words(made, tmp_path):
    done = esft("export", made, "--out", tmp_path / "out")

    assert done.exit_code == 0, done.stderr
    assert f"step 3 of {made}/journal.jsonl, the weights that the run recorded" in done.stdout
    assert "compared Its files are those that the run saved" in done.stdout
    assert f"model    {tmp_path / 'out'}\nsame as  {made / 'model'}, which" in done.stdout
    assert "Its files are those that the run saved" in (tmp_path / "out" / "README.md").read_text()
    assert f"copying {made / 'model'}" in done.stderr


def test_what_to_type_for_ollama_is_said(made, tmp_path):
    out = tmp_path / "My Model"

    done = esft("export", made, "--out", out)

    create, run = done.stdout.splitlines()[-2:]
    assert shlex.split(create)[1:] == ["ollama", "create", "my-model", "-f", f"{out}/Modelfile"]
    assert run.split() == ["ollama", "run", "my-model"]
    assert (out / "Modelfile").read_text().splitlines()[1] == "FROM ."


def test_the_best_step_is_converted_compared_and_told_as_json(made, tmp_path):
    out = tmp_path / "out"

    done = esft("export", made, "--at", "best", "--out", out, "--dtype", "bfloat16", "--json")

    result, best = json.loads(done.stdout), best_step(scores(made))
    assert (result["step"], result["best_step"]) == (best, best)
    assert (result["dtype"], result["model"]) == ("bfloat16", str(out))
    assert str(AutoModelForCausalLM.from_pretrained(out).dtype) == "torch.bfloat16"
    largest = result["conversion"]["largest_difference"]
    assert 0 < largest < 0.5
    assert f"differ by at most {largest:.4g}" in (out / "README.md").read_text()


def test_a_journal_is_exported_and_replayed(made, tmp_path):
    written = esft("export", made, "--at", 2, "--journal", "--out", tmp_path / "my.jsonl")
    replayed = esft("replay", tmp_path / "my.jsonl", "--out", tmp_path / "again")

    assert written.exit_code == replayed.exit_code == 0, replayed.stderr
    size = (tmp_path / "my.jsonl").stat().st_size
    assert f"journal  {tmp_path / 'my.jsonl'}, {size / 1000:.1f} kB" in written.stdout
    assert f"--model {made.parent / 'base'} --out DIR" in written.stdout
    assert "step 2 of" in replayed.stdout
    assert "the weights that the run recorded" in replayed.stdout


def test_a_journal_told_as_json(made, tmp_path):
    done = esft("export", made, "--journal", "--out", tmp_path / "my.jsonl", "--json")

    result = json.loads(done.stdout)
    saved = json.loads((made / "run.json").read_text())["saved"]
    assert (result["step"], result["weights"]) == (3, saved["weights"])
    assert result["size"] == (tmp_path / "my.jsonl").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["--dtype", "bfloat16", "--journal"], "--dtype converts a model", 2),
        (["--push", "a/b", "--journal"], "--push sends a model", 2),
        (["--push", "a/b"], "there is no token for the hub", 1),
        (["--dtype", "int8"], "'int8' is not one of", 2),
        (["--at", "9"], "--at is '9', expected best, last or a step from 0 to 3", 1),
        (["--at", "9", "--journal"], "--at is '9', expected best, last or a step from 0 to 3", 1),
    ],
)
def test_what_cannot_be_exported_is_refused(arguments, said, code, made, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)

    done = esft("export", made, "--out", tmp_path / "out", *arguments)

    assert done.exit_code == code
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--journal"]])
def test_what_is_there_is_never_overwritten(arguments, made, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("text")

    done = esft("export", made, "--out", tmp_path / "out", *arguments)

    assert done.exit_code == 1
    assert "exists, expected" in done.stderr
    assert "Hint: name another" in done.stderr
    assert (tmp_path / "out" / "mine").read_text() == "text"
