"""Models and datasets of the hub: downloaded, from the cache, and not to be had."""

import json
import shutil
import socket

import pytest
import torch
from loopback_hub import LoopbackHub, commit_of, run_python
from safetensors.torch import load_file
from tiny_models import change_config, write_model

ATTEMPT = """
import json, os
from esft.errors import EsftError
from esft.models.load import load_model

results = {{}}
for name, trust in {names!r}:
    try:
        loaded = load_model(name, trust_remote_code=trust)
        result = {{"source": loaded.source, "weight": loaded.model.model.norm.weight.sum().item()}}
    except EsftError as error:
        result = {{"error": f"{{type(error).__name__}}: {{error}}", "hint": error.hint}}
    if "ITS_CODE_RAN" in os.environ:
        result["its code ran"] = True
    results[name + " trusted" * trust] = result
print(json.dumps(results))
"""
READ = """
import json
from pathlib import Path
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split

print(json.dumps([[row.answer, len(row.options)] for row in
      read_split(get_task("arc-easy"), "validation")]))
"""
CODE = """
import os
from transformers import LlamaConfig, LlamaForCausalLM
os.environ["ITS_CODE_RAN"] = "1"
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def attempt(names, **where):
    """What load_model makes of each name, in a Python of its own; names may end in trusted."""
    pairs = [(name.removesuffix(" trusted"), name.endswith(" trusted")) for name in names]
    result = run_python(ATTEMPT.format(names=pairs), **where)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def a_port_where_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The repositories of the hub of these tests."""
    root = tmp_path_factory.mktemp("hub")
    for name in ("tiny", "slim", "gated", "pickle", "quantized", "own"):
        write_model(root / "models" / "org" / name)
    tiny = root / "models" / "org" / "tiny"
    (tiny / "onnx").mkdir()
    (tiny / "onnx" / "config.json").write_text("{}")
    (tiny / "consolidated.safetensors").write_bytes(b"the same weights again")
    (root / "models" / "org" / "slim" / "notes.txt").write_text("nothing that a model needs")
    pickle = root / "models" / "org" / "pickle"
    (pickle / "model.safetensors").unlink()
    torch.save({}, pickle / "pytorch_model.bin")
    change_config(
        root / "models" / "org" / "quantized", quantization_config={"quant_method": "awq"}
    )
    own = root / "models" / "org" / "own"
    (own / "own.py").write_text(CODE)
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    change_config(own, model_type="own", auto_map=classes)
    return root


@pytest.fixture(scope="module")
def online(root, tmp_path_factory):
    """Results and requests of loading everything from the hub; and the cache that this filled."""
    home = tmp_path_factory.mktemp("home")
    names = ["org/tiny", "org/gated", "org/pickle", "org/quantized", "Qwen/Qwen2.5-1.5"]
    names += ["org/own", "org/own trusted"]  # last, since what has run has run
    with LoopbackHub(root, gated=["org/gated"]) as hub:
        results = attempt(names, endpoint=hub.url, home=home)
    return results, hub.requests, home


def test_a_hub_id_loads_and_says_its_revision(online, root):
    results, _, _ = online

    weights = load_file(root / "models" / "org" / "tiny" / "model.safetensors")
    assert results["org/tiny"] == {
        "source": f"org/tiny@{commit_of('org/tiny')}",
        "weight": weights["model.norm.weight"].sum().item(),
    }


def test_only_files_that_a_model_needs_are_downloaded_and_weights_come_last(online):
    _, requests, _ = online

    asked = [line for line in requests if "org/tiny/" in line]
    assert asked[-1].startswith("GET /org/tiny/resolve")
    assert asked[-1].endswith("/model.safetensors")
    assert not any("consolidated" in line or "onnx" in line for line in asked)


def test_a_gated_model_says_to_accept_the_terms_and_log_in(online):
    results, _, _ = online

    assert "ModelError: org/gated is gated" in results["org/gated"]["error"]
    assert "/org/gated, then log in with `hf auth login`" in results["org/gated"]["hint"]


def test_a_model_that_the_hub_does_not_have_is_said(online):
    results, _, _ = online

    assert "Qwen/Qwen2.5-1.5 was not found on http" in results["Qwen/Qwen2.5-1.5"]["error"]
    assert "check the name" in results["Qwen/Qwen2.5-1.5"]["hint"]


def test_a_repository_of_pickles_is_refused_and_they_are_not_downloaded(online):
    results, requests, _ = online

    assert "org/pickle has no weights as safetensors" in results["org/pickle"]["error"]
    assert "pickles" in results["org/pickle"]["hint"]
    assert not any("pytorch_model" in line for line in requests)


def test_a_quantized_model_is_refused_before_its_weights_are_downloaded(online):
    results, requests, _ = online

    assert "quantized (quantization_config: awq)" in results["org/quantized"]["error"]
    assert not any("org/quantized" in line and "safetensors" in line for line in requests)


def test_code_that_comes_with_a_model_runs_only_if_asked_for(online):
    results, _, _ = online

    assert "org/own needs Python code of its own" in results["org/own"]["error"]
    assert "trust_remote_code" in results["org/own"]["hint"]
    assert "its code ran" not in results["org/own"]
    assert results["org/own trusted"]["source"] == f"org/own@{commit_of('org/own')}"
    assert results["org/own trusted"]["its code ran"]


def test_without_a_network_a_cached_model_loads_and_another_says_what_to_do(online):
    results, _, home = online
    endpoint = a_port_where_nobody_listens()

    found = attempt(["org/tiny", "org/other"], endpoint=endpoint, home=home)

    assert found["org/tiny"] == results["org/tiny"]
    error, hint = found["org/other"].values()
    assert f"org/other was looked for on {endpoint}, which cannot be reached" in error
    assert f"in the cache {home / 'hub'}, which does not hold it" in error
    assert "hf download org/other" in hint
    assert "HF_HUB_OFFLINE=1" in hint
    assert "local folder" in hint


@pytest.fixture(scope="module")
def offline(online, root, tmp_path_factory):
    """Results of loading with HF_HUB_OFFLINE=1, from a cache that holds some models in part."""
    home = tmp_path_factory.mktemp("offline") / "home"
    shutil.copytree(online[2], home, symlinks=True)
    cache = home / "hub"
    shutil.copytree(cache / "models--org--tiny", cache / "models--org--part", symlinks=True)
    for weights in (cache / "models--org--part").rglob("model.safetensors"):
        weights.unlink()
    needed = ["config.json", "model.safetensors", "tokenizer*"]
    fill = f"from huggingface_hub import *; snapshot_download('org/slim', allow_patterns={needed})"
    with LoopbackHub(root) as hub:
        assert run_python(fill, endpoint=hub.url, home=home).returncode == 0
    names = ["org/tiny", "org/part", "org/slim", "org/other"]
    return attempt(names, endpoint=a_port_where_nobody_listens(), home=home, offline=True)


def test_offline_a_cached_model_loads(offline, online):
    assert offline["org/tiny"] == online[0]["org/tiny"]


def test_offline_a_cache_that_lacks_only_what_no_model_needs_is_enough(offline):
    assert offline["org/slim"]["source"] == f"org/slim@{commit_of('org/slim')}"


@pytest.mark.parametrize("name", ["org/part", "org/other"])
def test_offline_a_model_that_is_not_wholly_cached_says_so(name, offline):
    assert f"{name} is not, or not wholly, in the cache" in offline[name]["error"]
    assert f"hf download {name}" in offline[name]["hint"]


def test_rows_of_a_dataset_come_from_the_hub_and_then_from_the_cache(root, tmp_path):
    write_arc(root / "datasets" / "allenai" / "ai2_arc")
    with LoopbackHub(root) as hub:
        online = run_python(READ, endpoint=hub.url, home=tmp_path)
    offline = run_python(READ, endpoint=hub.url, home=tmp_path, offline=True)

    assert online.returncode == 0, online.stderr
    assert [options for _, options in json.loads(online.stdout)] == [4, 4, 4]
    assert offline.stdout == online.stdout


def write_arc(folder):
    """A dataset with the configs, splits and columns of allenai/ai2_arc, three rows a split."""
    configs = []
    for config in ("ARC-Challenge", "ARC-Easy"):
        (folder / config).mkdir(parents=True)
        splits = []
        for split in ("train", "validation", "test"):
            rows = [arc_row(f"{config}-{split}-{i}", "ABCD"[i]) for i in range(3)]
            (folder / config / f"{split}.jsonl").write_text("".join(rows))
            splits.append({"split": split, "path": f"{config}/{split}.jsonl"})
        configs.append({"config_name": config, "data_files": splits})
    card = json.dumps({"configs": configs})  # JSON is YAML
    (folder / "README.md").write_text(f"---\n{card}\n---\n")


def arc_row(name, answer):
    choices = {"text": ["ice", "fire", "water", "air"], "label": list("ABCD")}
    row = {"id": name, "question": f"What is {name}?", "choices": choices, "answerKey": answer}
    return json.dumps(row) + "\n"
