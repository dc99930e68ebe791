"""What the tests of models share."""

import pytest
from tiny_models import write_model


@pytest.fixture
def folder(tmp_path):
    """A checkpoint: a tiny Llama with tied embeddings in float32, and its chat tokenizer."""
    return write_model(tmp_path / "tiny")
