"""What a model's name means."""

import pytest

from esft.errors import ModelError
from esft.models.find import find_model


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("Qwen2.5-Coder-7B", "Qwen/Qwen2.5-Coder-7B"),
        ("Llama-3.2-1B", "meta-llama/Llama-3.2-1B"),
        ("Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),
        ("SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("gemma-2-2b", "google/gemma-2-2b"),
        ("Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"),
    ],
)
def test_a_short_name_or_hub_id_means_a_repository_or_a_folder_of_that_name(name, repository, here):
    assert find_model(name) == repository

    (here / name).mkdir(parents=True)
    assert (here / find_model(name)) == here / name


def test_a_gguf_file_in_the_home_folder_is_found(here):
    (here / "tiny.gguf").touch()

    assert find_model("~/tiny.gguf") == here / "tiny.gguf"


@pytest.mark.parametrize(
    "name", ["./my-model", "/no/such", "a/b/c", "~/m", "~nobody/m", "tiny.gguf", "a/tiny.GGUF"]
)
def test_a_path_that_is_not_there_is_said_to_be_missing(name):
    with pytest.raises(ModelError, match="no such file or folder") as caught:
        find_model(name)

    assert name in str(caught.value)


def test_a_safetensors_file_is_refused_with_its_folder_as_hint(here):
    (here / "model.safetensors").touch()

    with pytest.raises(ModelError, match=r"is neither a folder nor a \.gguf file") as caught:
        find_model(str(here / "model.safetensors"))

    assert caught.value.hint == f"name the folder it is in: {here}"


@pytest.mark.parametrize("name", ["Qwen2.5", "", "z" * 5000])
def test_an_unknown_bare_name_is_refused_with_the_forms_that_work(name):
    with pytest.raises(ModelError, match=f"'{name}' is not known$") as caught:
        find_model(name)

    for form in ("short name (Qwen2.5-1.5B", "hub id", "folder", ".gguf", "embedded"):
        assert form in caught.value.hint
