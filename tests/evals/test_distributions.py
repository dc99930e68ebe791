"""What a model says of a continuation, against plain forwards over one sequence at a time."""

import pytest
import torch
from tiny_models import tiny_llama

from esft.evals.kl import token_distributions
from esft.rollout.batches import Batches
from esft.rollout.logprobs import LOGITS, Continuation

CONTINUATIONS = [
    Continuation((40 + i, 50, 60 + i)[: 1 + i % 3] + (70,) * i, (70,) * i + (80 + i,))
    for i in range(6)
]


def alone(model, continuation):
    """log p of the whole vocabulary in each position of one continuation, float64."""
    with torch.no_grad():
        every = model(torch.tensor([continuation.tokens])).logits[0].double().log_softmax(-1)
    return every[len(continuation.tokens) - len(continuation.targets) :]


@pytest.mark.parametrize(("size", "logits", "top"), [(1, 1, 5), (4, 2000, 5), (4, LOGITS, 130)])
def test_the_tokens_are_given_what_the_model_gives_them_alone(size, logits, top):
    model = tiny_llama()

    found = token_distributions(model, CONTINUATIONS, Batches(size), top, logits=logits)

    for continuation, told in zip(CONTINUATIONS, found, strict=True):
        expected = alone(model, continuation)
        targets = torch.tensor(continuation.targets).unsqueeze(-1)
        single = expected.topk(top).values
        rest = torch.log1p(-single.exp().sum(-1, keepdim=True))
        assert told.own.tolist() == pytest.approx(
            expected.gather(-1, targets).squeeze(-1).tolist(), abs=1e-4
        )
        assert torch.allclose(told.logprobs.double(), torch.cat([single, rest], -1), atol=1e-4)
        assert told.among_others.equal((told.top != targets).all(-1))


@pytest.mark.parametrize("top", [0, 1, 261, 1000])
def test_probabilities_sum_to_one(top):
    for told in token_distributions(tiny_llama(), CONTINUATIONS, Batches(), top):
        assert told.logprobs.shape[1] == min(top, 261) + 1
        assert told.logprobs.exp().sum(-1).tolist() == pytest.approx(
            [1] * len(told.logprobs), abs=1e-5
        )


def test_another_model_is_asked_of_the_same_tokens():
    one, other = tiny_llama(seed=0), tiny_llama(seed=1)
    asked = token_distributions(one, CONTINUATIONS, Batches(), 3)

    found = token_distributions(other, CONTINUATIONS, Batches(2), [told.top for told in asked])

    for continuation, before, told in zip(CONTINUATIONS, asked, found, strict=True):
        assert told.top.equal(before.top)
        expected = alone(other, continuation).gather(-1, before.top)
        assert torch.allclose(told.logprobs[:, :-1].double(), expected, atol=1e-4)
        assert told.among_others.equal(before.among_others)
