"""What a model says of a continuation, against plain forwards over one sequence at a time."""

import pytest
import torch
from tiny_models import tiny_llama

from esft.evals import kl_laws as module
from esft.evals.kl_laws import laws_at, likeliest_laws
from esft.rollout.batches import Batches
from esft.rollout.logprobs import LOGITS, Continuation

CONTINUATIONS = [
    Continuation((40 + i, 50, 60 + i)[: 1 + i % 3] + (70,) * i, (70,) * i + (80 + i,))
    for i in range(6)
]


def alone(model, each):
    """log p of the whole vocabulary in each place of one continuation, float64."""
    with torch.no_grad():
        every = model(torch.tensor([each.tokens])).logits[0].double().log_softmax(-1)
    return every[len(each.tokens) - len(each.targets) :]


@pytest.mark.parametrize("top", [5, 130])
@pytest.mark.parametrize("logits", [1, 2000, LOGITS])
@pytest.mark.parametrize("size", [1, 4])
def test_the_tokens_are_given_what_the_model_gives_them_alone(size, logits, top, monkeypatch):
    monkeypatch.setattr(module, "LOGITS", logits)
    model = tiny_llama()

    found = likeliest_laws(model, CONTINUATIONS, Batches(size), top)

    for each, laws in zip(CONTINUATIONS, found, strict=True):
        expected = alone(model, each)
        targets = torch.tensor(each.targets).unsqueeze(-1)
        told = expected.topk(top).values
        rest = torch.log1p(-told.exp().sum(-1, keepdim=True))
        assert laws.drawn.tolist() == pytest.approx(
            expected.gather(-1, targets).squeeze(-1).tolist(), abs=1e-4
        )
        assert torch.allclose(laws.told.double(), torch.cat([told, rest], -1), atol=1e-4)
        assert laws.among_others.equal((laws.top != targets).all(-1))


@pytest.mark.parametrize("top", [0, 1, 260, 261, 1000])
def test_what_is_told_sums_to_one(top):
    for laws in likeliest_laws(tiny_llama(), CONTINUATIONS, Batches(), top):
        assert laws.told.shape[1] == min(top, 261) + 1
        assert laws.told.exp().sum(-1).tolist() == pytest.approx([1] * len(laws.told), abs=1e-5)


def test_another_model_is_asked_of_the_same_tokens():
    one, other = tiny_llama(seed=0), tiny_llama(seed=1)
    asked = likeliest_laws(one, CONTINUATIONS, Batches(), 3)

    found = laws_at(other, CONTINUATIONS, Batches(2), [each.top for each in asked])

    for each, before, laws in zip(CONTINUATIONS, asked, found, strict=True):
        assert laws.top.equal(before.top)
        expected = alone(other, each).gather(-1, before.top)
        assert torch.allclose(laws.told[:, :-1].double(), expected, atol=1e-4)
        assert laws.among_others.equal(before.among_others)
