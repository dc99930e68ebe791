"""What a model says of continuations, and estimates against the exact KL divergence."""

import math

import pytest
import torch
from scoring import choice_row, question_row
from tiny_models import tiny_llama, tiny_tokenizer

from esft.engine import Drift, Weights
from esft.engine.members import population
from esft.errors import TaskError
from esft.evals.kl import kl_between
from esft.models.identity import stop_tokens
from esft.models.load import load_model
from esft.rollout.batches import Batches
from esft.rollout.encode import encode_prompt, encode_row
from esft.rollout.kl import (
    KlSettings,
    prompts_of,
    sampled_continuations,
    token_distributions,
)
from esft.rollout.logprobs import LOGITS, Continuation
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split

PROMPTS = 20
VOCABULARY = 99


class Tuned:
    """A model that has drifted by three steps, with the prompts of a task it half knows."""

    def __init__(self, dtype="float32"):
        loaded = load_model("embedded", dtype=dtype, device="cpu")
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.weights = Weights(self.model)
        self.drift = Drift(self.weights)
        rows = read_split(get_task("subtract-two-digits"), "test")[:PROMPTS]
        self.prompts = [encode_prompt(self.tokenizer, *row.questions) for row in rows]

    def walk(self, alpha=0.01):
        for step in range(1, 4):
            self.drift.step(population(0, step, 4), [1.5, -0.5, -1.25, 0.25], alpha)
        return self

    def settings(self, prompts=None, count=2, size=64, **options):
        prompts = self.prompts if prompts is None else prompts
        return KlSettings(prompts=prompts, max_new_tokens=count, batches=Batches(size), **options)

    def kl(self, prompts=None, base=None, **options):
        settings = self.settings(prompts, **options)
        return kl_between(self.model, self.tokenizer, self.drift, settings, base)


@pytest.fixture(scope="module")
def tuned():
    return Tuned().walk()


def next_distributions(model, prompt):
    """log p of the token after a prompt, and of the one after each token, float64."""
    size = model.config.vocab_size
    with torch.no_grad():
        contexts = torch.tensor([(*prompt, token) for token in range(size)])
        logits = model(contexts).logits.double().log_softmax(-1)
    return logits[0, len(prompt) - 1], logits[:, -1]


def divergence(p, q):
    return (p.exp() * (p - q)).sum(-1)


def expected(p_next, q_next, stops):
    """The expected sum of KL(p||q) over up to two tokens of one prompt, and of the tokens."""
    (p_first, p_second), (q_first, q_second) = p_next, q_next
    goes_on = p_first.exp()
    goes_on[stops] = 0
    kl = divergence(p_first, q_first) + (goes_on * divergence(p_second, q_second)).sum()
    return float(kl), 1 + float(goes_on.sum())


@pytest.fixture(scope="module")
def exact(tuned):
    """(kl, tokens) expected of each prompt, by direction: base to tuned, tuned to base."""
    stops = stop_tokens(tuned.model, tuned.tokenizer)
    now = [next_distributions(tuned.model, prompt) for prompt in tuned.prompts]
    with tuned.drift.at_base():
        base = [next_distributions(tuned.model, prompt) for prompt in tuned.prompts]
    return (
        [expected(p0, p, stops) for p0, p in zip(base, now, strict=True)],
        [expected(p, p0, stops) for p0, p in zip(base, now, strict=True)],
    )


def per_token(parts):
    return sum(kl for kl, _ in parts) / sum(tokens for _, tokens in parts)


@pytest.mark.parametrize("top", [0, 4])
def test_estimates_have_the_exact_divergence_as_their_mean(tuned, exact, top):
    found = [tuned.kl(seed=seed, top=top) for seed in range(16)]

    for direction in (0, 1):
        values = torch.tensor([pair[direction].kl for pair in found], dtype=torch.float64)
        error = float(values.std()) / math.sqrt(len(values))
        assert abs(float(values.mean()) - per_token(exact[direction])) < 4 * error


def test_estimates_lie_within_their_stated_errors(tuned, exact):
    found = []
    for seed in range(20):  # prompts drawn with replacement, those of `tuned` being all there are
        draw = torch.Generator().manual_seed(seed)
        chosen = torch.randint(0, PROMPTS, (50,), generator=draw).tolist()
        found.append(tuned.kl([tuned.prompts[i] for i in chosen], seed=seed))

    for direction in (0, 1):
        truth = per_token(exact[direction])
        errors = [abs(pair[direction].kl - truth) / pair[direction].se for pair in found]
        # Of 20 with a chance of 0.95 each, fewer than 15 come once in 3,000 times.
        assert sum(error < 1.96 for error in errors) >= 15
        # Nor are the stated errors larger than they need be.
        assert sum(error < 0.5 for error in errors) <= 15


def test_each_direction_is_what_its_name_says():
    tuned = Tuned().walk(alpha=0.03)  # far enough for the two to be told apart
    now = [next_distributions(tuned.model, prompt)[0] for prompt in tuned.prompts]
    with tuned.drift.at_base():
        base = [next_distributions(tuned.model, prompt)[0] for prompt in tuned.prompts]
    forth = float(divergence(torch.stack(base), torch.stack(now)).mean())
    back = float(divergence(torch.stack(now), torch.stack(base)).mean())

    base_to_tuned, tuned_to_base = tuned.kl(count=1, top=VOCABULARY)

    assert abs(forth / back - 1) > 0.05
    assert base_to_tuned.kl == pytest.approx(forth, rel=1e-4)
    assert tuned_to_base.kl == pytest.approx(back, rel=1e-4)


@pytest.mark.parametrize(
    ("dtype", "top"), [("float32", 0), ("float32", VOCABULARY), ("bfloat16", 4)]
)
def test_without_drift_the_divergence_is_exactly_0(dtype, top):
    for found in Tuned(dtype).kl(count=6, top=top):
        assert (found.kl, found.se, found.far) == (0.0, 0.0, 0.0)
        assert found.prompts == PROMPTS
        assert found.tokens > PROMPTS


def test_estimates_are_the_same_in_every_batch_size(tuned):
    for one, other in zip(tuned.kl(count=6, size=7), tuned.kl(count=6), strict=True):
        assert one.tokens == other.tokens
        assert one.kl == pytest.approx(other.kl, rel=1e-4)


def test_what_was_drawn_from_the_base_serves_every_step(tuned):
    with tuned.drift.at_base():
        settings = tuned.settings(count=4, seed=7)
        base = sampled_continuations(tuned.model, tuned.tokenizer, settings, "base")

    found = tuned.kl(count=4, seed=8, base=base)

    assert found[0] == tuned.kl(count=4, seed=7)[0] != tuned.kl(count=4, seed=8)[0]
    assert found[1] == tuned.kl(count=4, seed=8)[1]


def test_continuations_end_where_the_context_does(tuned, monkeypatch):
    long = tuned.prompts[0] * 21  # 126 tokens, of 128
    monkeypatch.setattr(tuned.model.generation_config, "eos_token_id", [98])

    for found in tuned.kl([long, tuned.prompts[0]], count=256):
        assert found.tokens == 4


def test_a_prompt_that_fills_the_context_is_refused(tuned):
    with pytest.raises(TaskError, match="a prompt has 132 tokens, expected fewer than 128"):
        tuned.kl([tuned.prompts[0] * 22])


def test_a_model_that_overflows_says_so():
    tuned = Tuned().walk(alpha=1e15)

    base_to_tuned, _ = tuned.kl()

    assert math.isnan(base_to_tuned.kl)
    assert math.isnan(base_to_tuned.se)


@pytest.mark.parametrize("scoring", ["generate", "choice", "exact"])
def test_prompts_are_what_stands_before_the_answers(scoring):
    model, tokenizer = tiny_llama(), tiny_tokenizer(chat_template=False)
    make = choice_row if scoring == "choice" else question_row
    rows = tuple(make(number) for number in range(60))
    encoded = [
        encode_row(model, tokenizer, row, scoring, with_references=scoring == "exact")
        for row in rows
    ]

    prompts = prompts_of(encoded, 50)

    assert len(prompts) == 50
    # A plain prompt ends as the context of an option does.
    assert [tokenizer.decode(prompt) for prompt in prompts[:3]] == [
        row.questions[0].messages[0]["content"].removesuffix("\nAnswer:") + "\nAnswer:"
        for row in rows[:3]
    ]
    assert len(prompts_of(encoded, 7)) == 7


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
