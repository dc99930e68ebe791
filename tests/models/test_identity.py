"""The parts of a model besides its weights: each shows in its own hash, and nothing else does."""

import json
import shutil

import pytest
import torch
from loopback_hub import run_python
from tiny_models import change_config, write_gguf, write_model

from esft.models.identity import parts_of
from esft.models.load import load_model
from esft.models.save import save_model

OWN = """
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
LOAD_BOTH = """
import json
from esft.models.load import load_model
loaded = [load_model(name, trust_remote_code=True, device="cpu") for name in {names!r}]
print(json.dumps([dict(one.parts) for one in loaded]))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("identity") / "model")


@pytest.fixture
def folder(written, tmp_path):
    """A copy of the model, to change."""
    return shutil.copytree(written, tmp_path / "copy")


def edit(file, **changes):
    """Return what sets keys of a JSON file of a model."""

    def change(folder):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def other_merges(folder):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["merges"] = []
    path.write_text(json.dumps(tokenizer))


def other_template(folder):
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("im_start", "IM_START"))


def parts(where):
    return dict(load_model(str(where), device="cpu").parts)


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (edit("config.json", rms_norm_eps=1e-3), "config"),
        (
            edit("config.json", rope_parameters={"rope_type": "default", "rope_theta": 9.0}),
            "config",
        ),
        (edit("config.json", hidden_act="relu"), "config"),
        (other_merges, "tokenizer"),
        (other_template, "chat template"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "chat template"),
        (edit("generation_config.json", eos_token_id=[0, 2]), "stop tokens"),
    ],
)
def test_what_changes_an_answer_changes_the_part_it_is_in(written, folder, change, changed):
    before = parts(written)

    change(folder)

    after = parts(folder)
    assert [name for name in before if before[name] != after[name]] == [changed]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: None,
        edit("config.json", transformers_version="4.0.0", torch_dtype="float32", _name_or_path="x"),
        edit("config.json", use_cache=False, architectures=None, pad_token_id=3),
        edit("generation_config.json", temperature=0.5, do_sample=True),
        lambda folder: (folder / "README.md").write_text("a model"),
    ],
)
def test_what_changes_no_answer_changes_no_part(written, folder, change):
    change(folder)

    assert parts(folder) == parts(written)


@pytest.mark.parametrize("embedded", [False, True])
def test_a_model_saved_again_has_the_same_parts(written, tmp_path, embedded):
    loaded = load_model("embedded" if embedded else str(written), device="cpu")

    save_model(loaded, tmp_path / "again")

    assert parts(tmp_path / "again") == loaded.parts


def test_a_copy_of_a_gguf_file_has_the_same_parts(tmp_path):
    first = write_gguf(tmp_path / "first.gguf")
    (tmp_path / "elsewhere").mkdir()
    copied = shutil.copy(first, tmp_path / "elsewhere" / "second.gguf")

    assert parts(copied) == parts(first)


def test_using_a_tokenizer_changes_no_part(written):
    loaded = load_model(str(written), device="cpu")

    loaded.tokenizer(["a", "longer text"], padding=True, truncation=True, max_length=2)

    assert parts_of(loaded.model, loaded.tokenizer) == loaded.parts
    assert parts_of(loaded.model.to(torch.float16), loaded.tokenizer) == loaded.parts


def test_code_that_comes_with_a_model_is_a_part_of_it(written, tmp_path):
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    names = []
    for name, code in (("one", OWN), ("same", OWN), ("two", f"{OWN}# changed")):
        folder = shutil.copytree(written, tmp_path / name)
        change_config(folder, model_type="own", auto_map=classes)
        (folder / "own.py").write_text(code)
        names.append(str(folder))

    done = run_python(LOAD_BOTH.format(names=names), endpoint="", home=tmp_path / "home")

    assert done.returncode == 0, done.stderr
    one, same, two = json.loads(done.stdout)
    assert one == same
    assert [part for part in one if one[part] != two[part]] == ["code"]
