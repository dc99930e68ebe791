"""Models of the hub: downloaded, from the cache, and refused in words."""

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
from esft.models.base_file import map_base
from esft.models.load import load_model

results = {{}}
for name, trust in {names!r}:
    try:
        loaded = load_model(name, trust_remote_code=trust)
        result = {{"source": loaded.source, "weight": loaded.model.model.norm.weight.sum().item()}}
        files = map_base(loaded, ["model.norm.weight"], "base").files
        result["mapped"] = [str(file.relative_to(os.environ["HF_HOME"])) for file in files]
    except EsftError as error:
        result = {{"error": f"{{type(error).__name__}}: {{error}}", "hint": error.hint}}
    if "ITS_CODE_RAN" in os.environ:
        result["its code ran"] = True
    results[name + " trusted" * trust] = result
print(json.dumps(results))
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


DOWNLOAD_TO_A_SMALL_DISK = """
import resource, signal
from esft.models.find import fetch_small_files, fetch_weights
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # the weights take 100 kB
fetch_weights("org/tiny", fetch_small_files("org/tiny", code=False))
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
    for name in ("tiny", "slim", "gated", "broken", "pickle", "quantized", "own"):
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
    names = ["org/tiny", *ERRORS, "org/own trusted"]  # last, since what has run has run
    with LoopbackHub(root, gated=["org/gated"], broken=["org/broken"]) as hub:
        results = attempt(names, endpoint=hub.url, home=home)
    return results, hub.requests, home


def test_a_hub_id_loads_says_its_revision_and_has_its_base_mapped_from_the_cache(online, root):
    results, _, _ = online

    weights = load_file(root / "models" / "org" / "tiny" / "model.safetensors")
    commit = commit_of("org/tiny")
    assert results["org/tiny"] == {
        "source": f"org/tiny@{commit}",
        "weight": weights["model.norm.weight"].sum().item(),
        "mapped": [f"hub/models--org--tiny/snapshots/{commit}/model.safetensors"],
    }


def test_only_files_that_a_model_needs_are_downloaded_and_weights_come_last(online):
    _, requests, _ = online

    lines = [line for line in requests if "org/tiny/" in line]
    assert lines[-1].startswith("GET /org/tiny/resolve")
    assert lines[-1].endswith("/model.safetensors")
    assert not any("consolidated" in line or "onnx" in line for line in lines)
    assert not any("pytorch_model" in line for line in requests)
    assert not any("org/quantized" in line and "safetensors" in line for line in requests)


ERRORS = {
    "org/gated": ("org/gated is gated", "/org/gated, then log in with `hf auth login`"),
    "org/broken": ("org/broken was asked for, and http://127.0.0.1", "try again later"),
    "org/pickle": ("org/pickle has no weights as safetensors", "take a checkpoint with"),
    "org/quantized": ("quantized (quantization_config: awq)", "the checkpoint it was made from"),
    "Qwen/Qwen2.5-1.5": ("Qwen/Qwen2.5-1.5 was not found on http", "check the name"),
    "org/own": ("org/own needs Python code of its own", "model.trust_remote_code=true"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_the_hub_does_not_give_or_cannot_be_tuned_is_said(name, online):
    error, hint = ERRORS[name]

    result = online[0][name]
    assert list(result) == ["error", "hint"]  # and no code of its own ran
    assert result["error"].startswith("ModelError: ")
    assert error in result["error"]
    assert hint in result["hint"]


def test_code_that_comes_with_a_model_runs_if_asked_for(online):
    result = online[0]["org/own trusted"]

    assert result["source"] == f"org/own@{commit_of('org/own')}"
    assert result["its code ran"]


def test_a_disk_that_fills_up_while_downloading_is_said(root, tmp_path):
    pytest.importorskip("resource")
    with LoopbackHub(root) as hub:
        result = run_python(DOWNLOAD_TO_A_SMALL_DISK, endpoint=hub.url, home=tmp_path)

    message = f"ModelError: org/tiny cannot be stored in {tmp_path / 'hub'}: File too large"
    assert message in result.stderr


def test_without_a_network_a_cached_model_loads_and_another_says_what_to_do(online):
    results, _, home = online
    endpoint = a_port_where_nobody_listens()

    unreachable = attempt(["org/tiny", "org/other"], endpoint=endpoint, home=home)

    assert unreachable["org/tiny"] == results["org/tiny"]
    error, hint = unreachable["org/other"].values()
    assert f"org/other was looked for on {endpoint}, which cannot be reached" in error
    assert f"in the cache {home / 'hub'}, which does not hold it" in error
    for words in ("hf download org/other", "HF_HUB_OFFLINE=1", "local folder"):
        assert words in hint


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


def test_offline_a_cached_model_loads_also_where_the_cache_lacks_what_no_model_needs(
    offline, online
):
    assert offline["org/tiny"] == online[0]["org/tiny"]
    assert offline["org/slim"]["source"] == f"org/slim@{commit_of('org/slim')}"


@pytest.mark.parametrize("name", ["org/part", "org/other"])
def test_offline_a_model_that_is_not_wholly_cached_says_so(name, offline):
    assert f"{name} is not, or not wholly, in the cache" in offline[name]["error"]
    assert f"hf download {name}" in offline[name]["hint"]
