"""Members that share a batch: each row comes out as from its member's own weights."""

import pytest
import torch
from some_weights import bits_of
from tiny_models import SIZES, tiny_qwen2
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from esft.engine import Member, Weights, perturbed
from esft.engine.batched import BatchedModel, most_members, vectors_numel

SIGMA = 0.02
MEMBERS = [Member(5), Member(5, -1), Member(7)]
ROWS = [0, 2, 1, 1, 0, 2]  # whose member each is
KINDS = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {"tie_word_embeddings": False},  # biases
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},  # matrices the other way round, positions
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},  # positions behind an offset
    "gemma3_text": {"head_dim": 8},  # embeddings are scaled once they are read
    "gpt_neox": {},  # one matrix for queries, keys and values
    "mixtral": {},  # a router, given tokens in one row
}


def a_model(kind, **changes):
    config = AutoConfig.for_model(kind, **{**SIZES, "pad_token_id": 3, **KINDS[kind], **changes})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def weights_of(model, rank):
    experts = (
        ["*experts*"] if any("experts" in name for name, _ in model.named_parameters()) else []
    )
    return Weights(model, exclude=experts, rank=rank)


@torch.inference_mode()
def one_at_a_time(model, weights, ids):
    """Return the logits of each row, read by the weights of its own member."""
    logits = {}
    for place, member in enumerate(MEMBERS):
        rows = [row for row, of in enumerate(ROWS) if of == place]
        with perturbed(weights, member, SIGMA):
            logits |= zip(rows, model(input_ids=ids[rows]).logits, strict=True)
    return torch.stack([logits[row] for row in range(len(ROWS))])


@torch.inference_mode()
def together(batched, ids, **inputs):
    with batched.members(MEMBERS, SIGMA):
        return batched(input_ids=ids, members=ROWS, **inputs).logits


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_out_as_from_the_weights_of_their_members(kind, rank):
    model = a_model(kind)
    weights, ids = weights_of(model, rank), torch.randint(4, 200, (6, 9))
    before = bits_of(weights)

    shared = together(BatchedModel(model, weights), ids)

    alone = one_at_a_time(model, weights, ids)
    base = model(input_ids=ids).logits
    assert float((alone - base).std()) > 0.1  # so much is the noise of these members felt
    assert torch.allclose(shared, alone, atol=1e-5)
    assert bits_of(weights) == before


def test_in_bfloat16_they_do_to_its_rounding():
    model = tiny_qwen2(dtype=torch.bfloat16)
    weights, ids = Weights(model, rank=2), torch.randint(4, 200, (6, 9))

    shared = together(BatchedModel(model, weights), ids)

    alone = one_at_a_time(model, weights, ids)
    effect = (alone - model(input_ids=ids).logits).std()
    assert float((shared - alone).std()) < 0.05 * float(effect)


def test_the_output_layer_may_see_some_positions_of_all_rows_in_a_row():
    model = tiny_qwen2(tied=False)
    batched = BatchedModel(model, Weights(model, rank=1))
    ids = torch.randint(4, 200, (6, 9))
    rows, positions = torch.tensor([0, 0, 3, 5, 2]), torch.tensor([1, 8, 4, 2, 0])
    hook = model.lm_head.register_forward_pre_hook(
        lambda _, args: (args[0][rows, positions].unsqueeze(0),)
    )

    some = together(batched, ids, predicting=rows)

    hook.remove()
    assert torch.allclose(some[0], together(batched, ids)[rows, positions], atol=1e-5)


def test_without_members_it_is_the_model():
    model = tiny_qwen2()
    batched = BatchedModel(model, Weights(model, rank=1))
    ids = torch.randint(4, 200, (2, 5))

    assert batched(input_ids=ids).logits.equal(model(input_ids=ids).logits)
    assert batched.config is model.config


class Odd(nn.Module):
    """A model with a matrix that is read by no function that can be perturbed."""

    device = torch.device("cpu")

    def __init__(self, read):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.plain = nn.Linear(8, 8)
        self.odd = nn.Parameter(torch.randn(8, 8))
        self._read = read

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, use_cache=False):
        return self._read(self, self.plain(self.embed(input_ids)))


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda model, states: states @ model.odd.T, "odd is not read by a linear"),
        (lambda model, states: states, "odd is not read by a linear"),
        (lambda model, states: nn.functional.linear(states[0], model.odd), r"odd is given \(5,\)"),
        (lambda model, states: nn.functional.linear(states, model.odd + 0), "odd is not read by"),
        (
            lambda model, states: nn.functional.linear(states, model.odd) + states @ model.odd.T,
            "odd is not read by",
        ),
    ],
    ids=["transposed", "never", "of one sequence", "changed before", "both ways"],
)
def test_what_the_batch_cannot_perturb_is_refused_by_name(read, said):
    model = Odd(read).requires_grad_(False)

    with pytest.raises(ValueError, match=said):
        BatchedModel(model, Weights(model, rank=1))

    BatchedModel(model, Weights(model, exclude=["odd"], rank=1))


def test_members_at_once_are_those_whose_vectors_fit_half_of_the_scratch():
    model = tiny_qwen2()
    weights = Weights(model, rank=2)
    shapes = dict(model.named_parameters())
    one = 4 * vectors_numel([tuple(shapes[name].shape) for name in weights.names], rank=2)
    batched = BatchedModel(model, weights)

    with batched.members([Member(seed) for seed in range(3)], SIGMA):
        held = [
            vectors
            for noise in batched._noises.parameters.values()
            for vectors in (noise.left, noise.right, noise.full)
            if vectors is not None
        ]

    assert sum(vectors.nbytes for vectors in held) == 3 * one
    assert [most_members(one, scratch) for scratch in (0, 7 * one, 8 * one)] == [1, 3, 4]
