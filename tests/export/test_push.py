"""A folder is pushed to a hub of our own, or it is said why not."""

import re

import pytest
from loopback_hub import LoopbackHub

from esft.errors import EsftError
from esft.export.push import open_repository, push_folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "mine")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with LoopbackHub(tmp_path / "hub", token="mine") as hub:
        yield hub


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "out"
    (folder / "more").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    (folder / "README.md").write_text("---\ntags: [esft]\n---\n# Text\n")
    (folder / "more" / "code.py").write_text("")
    return folder


def files_of(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_all_files_come_to_a_private_repository_and_again_to_the_same(hub, folder, capfd):
    address = open_repository("me/tuned", hub.url)
    push_folder(folder, "me/tuned", hub.url)

    assert address == f"{hub.url}/me/tuned"
    assert hub.private == {"me/tuned": True}
    assert files_of(hub.root / "models" / "me" / "tuned") == files_of(folder)
    (folder / "README.md").write_text("---\ntags: [esft]\n---\n# Other\n")
    assert open_repository("me/tuned", hub.url) == address
    push_folder(folder, "me/tuned", hub.url)
    assert files_of(hub.root / "models" / "me" / "tuned") == files_of(folder)
    assert capfd.readouterr() == ("", "")


def test_without_a_token_nothing_is_asked_of_the_hub(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)

    with pytest.raises(EsftError, match="there is no token for the hub") as caught:
        open_repository("me/tuned", hub.url)

    assert "hf auth login" in caught.value.hint
    assert hub.requests == []


def test_a_token_that_may_not_write_is_refused(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "another")

    for write in (
        lambda: open_repository("me/tuned", hub.url),
        lambda: push_folder(folder, "me/tuned", hub.url),
    ):
        with pytest.raises(EsftError, match=re.escape("does not let your token write")) as caught:
            write()
        assert "another" not in f"{caught.value} {caught.value.hint}"


def test_a_name_that_is_none_and_a_hub_that_is_not_there_are_said(hub, monkeypatch):
    with pytest.raises(EsftError, match="cannot be the name of a repository"):
        open_repository("me/two/parts", hub.url)
    with pytest.raises(EsftError, match="cannot be reached to write me/tuned"):
        open_repository("me/tuned", "http://127.0.0.1:9")
