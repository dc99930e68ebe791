import math
import re
import subprocess
import sys
from collections import Counter

import pytest
import torch
from scoring import asked

from esft.embedded import EMBEDDED
from esft.embedded.train import (
    CHAT_TEMPLATE,
    IGNORED,
    VOCABULARY,
    Mixture,
    Training,
    character_tokenizer,
    encode,
    learning_rate,
    puzzles_of,
    train,
    untrained_model,
)
from esft.models.load import load_model
from esft.rollout.batches import Batches
from esft.rollout.encode import encode_prompt, encode_reference
from esft.rollout.generate import greedy_answers
from esft.tasks.rows import read_split
from esft.tasks.synthetic import SYNTHETIC, TARGETS, Puzzle, split_of

NAMES = [task.name for task in SYNTHETIC]
TARGET_NAMES = [task.name for task in TARGETS]
FILES = (
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
VERBS = ("copy", "reverse", "upper", "sort", "largest", "count")
SCORE = re.compile(r"\| `([\w-]+)` \| (prior|target) \|.* ([\d.]+)% \+- ([\d.]+)% \|")


@pytest.fixture(scope="module")
def loaded():
    return load_model(str(EMBEDDED), device="cpu")


@pytest.fixture(scope="module")
def tokenizer(loaded):
    return loaded.tokenizer


@pytest.fixture(scope="module")
def rows():
    return {
        task.name: {split: read_split(task, split) for split in ("train", "validation", "test")}
        for task in SYNTHETIC
    }


@pytest.fixture(scope="module")
def scores(loaded, rows):
    return {name: exact(loaded, rows[name]["test"]) for name in NAMES}


def exact(loaded, some):
    """Share of rows whose whole reference is the argmax: row by row of equal length, no padding."""
    right, by_length = 0, {}
    for row in some:
        each = encode_reference(loaded.model, loaded.tokenizer, *row.questions, row.id)
        by_length.setdefault((len(each.tokens), len(each.targets)), []).append(each)
    for (_, count), group in by_length.items():
        tokens = torch.tensor([each.tokens for each in group])
        targets = torch.tensor([each.targets for each in group])
        with torch.inference_mode():
            logits = loaded.model(tokens).logits[:, -count:]  # (rows, count, vocabulary)
        right += int((logits.argmax(dim=-1) == targets).all(dim=1).sum())
    return right / len(some)


def card_scores(text):
    """Role and accuracy of each task in a model card."""
    return {name: (role, float(score) / 100) for name, role, score, _ in SCORE.findall(text)}


def user(content):
    return {"role": "user", "content": content}


def rendered(tokenizer, *messages, ask=True):
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)


# the folder


def test_the_folder_is_small_and_loads_with_nothing_to_say(loaded):
    assert (EMBEDDED / "model.safetensors").stat().st_size <= 4_000_000
    assert {path.name for path in EMBEDDED.iterdir()} >= set(FILES)
    assert (loaded.notes, loaded.borrowed_pad, loaded.dtype) == ((), False, torch.float32)


def test_the_shipped_files_are_those_that_training_writes(loaded, tokenizer):
    made = character_tokenizer()

    assert tokenizer.backend_tokenizer.to_str() == made.backend_tokenizer.to_str()
    assert tokenizer.chat_template == CHAT_TEMPLATE
    fresh = untrained_model(seed=0).state_dict()
    assert {name: value.shape for name, value in loaded.model.state_dict().items()} == {
        name: value.shape for name, value in fresh.items()
    }


def test_importing_the_folder_loads_no_heavy_library():
    code = "import sys, esft.embedded; print('torch' in sys.modules)"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "False"


# tokenizer and chat template


def test_model_and_tokenizer_agree_on_the_tokens_that_end_and_pad(loaded, tokenizer):
    settings = loaded.model.generation_config

    assert tokenizer.eos_token_id == settings.eos_token_id == loaded.model.config.eos_token_id
    assert tokenizer.pad_token_id == settings.pad_token_id == loaded.model.config.pad_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) == loaded.model.config.vocab_size


@pytest.mark.parametrize("name", NAMES)
def test_every_row_comes_back_from_its_tokens_one_token_a_character(tokenizer, rows, name):
    for split in rows[name].values():
        texts = [
            row.questions[0].messages[0]["content"] + row.questions[0].reference for row in split
        ]
        tokens = tokenizer(texts)["input_ids"]

        assert tokenizer.batch_decode(tokens) == texts
        assert all(len(ids) == len(text) for ids, text in zip(tokens, texts, strict=True))
        assert not any(tokenizer.unk_token_id in ids for ids in tokens)


def test_a_character_that_is_not_known_is_one_unknown_token(tokenizer):
    assert tokenizer("é你")["input_ids"] == [tokenizer.unk_token_id] * 2


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([user("copy ab"), {"role": "assistant", "content": "ab"}], "copy ab=ab<end>"),
        (
            [user("copy ab"), {"role": "assistant", "content": "ab"}, user("9-2")],
            "copy ab=ab<end>9-2",
        ),
        ([{"role": "system", "content": "Be brief."}, user("copy ab")], "Be brief. copy ab"),
        ([user("copy ab")], "copy ab"),
    ],
)
def test_several_messages_are_rendered_too(tokenizer, messages, text):
    assert rendered(tokenizer, *messages, ask=False) == text
    assert rendered(tokenizer, *messages) == text + "="


@pytest.mark.parametrize("name", NAMES)
def test_training_sees_the_tokens_that_scoring_looks_at(loaded, rows, name):
    row = rows[name]["test"][0]
    each = encode_reference(loaded.model, loaded.tokenizer, *row.questions, row.id)

    tokens, targets = encode(
        loaded.tokenizer,
        [Puzzle(asked(row), row.answer), Puzzle("x" * 30, "y")],
    )

    assert tuple(tokens[0, : len(each.tokens)].tolist()) == tuple(each.tokens)
    assert targets[0][targets[0] != IGNORED].tolist() == list(each.targets)
    assert targets[0, len(each.tokens) - 1] == loaded.tokenizer.eos_token_id
    assert set(tokens[0, len(each.tokens) :].tolist()) == {loaded.tokenizer.pad_token_id}


# what it knows


@pytest.mark.parametrize("name", NAMES)
def test_the_model_scores_what_its_card_says_priors_well_and_targets_badly(scores, name):
    role, said = card_scores((EMBEDDED / "README.md").read_text(encoding="utf-8"))[name]

    # The card rounds to 0.1 %; on another machine a near tie or two may fall the other way.
    assert scores[name] == pytest.approx(said, abs=0.0045)
    assert role == ("target" if name in TARGET_NAMES else "prior")
    assert scores[name] >= 0.95 if role == "prior" else 0.1 <= scores[name] <= 0.4


@pytest.mark.parametrize("name", NAMES)
def test_the_greedy_answer_is_right_where_every_token_is_the_argmax(loaded, rows, name):
    some = rows[name]["test"][:100]

    answers = greedy_answers(
        loaded.model,
        loaded.tokenizer,
        [encode_prompt(loaded.tokenizer, *row.questions) for row in some],
        8,
        Batches(),
    )

    right = [answer.text == row.answer for row, answer in zip(some, answers, strict=True)]
    assert right == [exact(loaded, [row]) == 1 for row in some]


# training


def test_training_lowers_the_loss():
    losses = []
    tokenizer = character_tokenizer()

    train(
        Training(steps=40, batch=16, warmup=5, every=100),
        untrained_model(seed=1),
        tokenizer,
        lambda step, loss, known: losses.append(loss),
    )

    assert len(losses) == 40
    assert losses[0] == pytest.approx(math.log(len(VOCABULARY)), rel=0.2)
    assert sum(losses[-5:]) / 5 < 0.75 * losses[0]


def rebuilt(out, *options):
    command = [sys.executable, "-m", "esft.embedded.train", "--out", str(out), "--steps", "3"]
    command += ["--batch", "8", "--threads", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_writes_a_folder_that_loads_with_its_card(tmp_path):
    shown = rebuilt(tmp_path / "model")

    loaded = load_model(str(tmp_path / "model"), device="cpu")
    written = card_scores((tmp_path / "model" / "README.md").read_text(encoding="utf-8"))
    printed = {name: float(score) for name, score in re.findall(r"([\w-]+) +([\d.]+)\n", shown)}
    assert {path.name for path in (tmp_path / "model").iterdir()} == set(FILES)
    assert loaded.notes == ()
    assert list(written) == list(printed) == NAMES
    assert {name: score for name, (_, score) in written.items()} == pytest.approx(printed, abs=1e-3)


def test_a_mixture_is_of_the_train_split_with_targets_as_asked_and_equal_shares_of_the_priors():
    some = Mixture(seed=0).take(1400, dict(zip(TARGET_NAMES, (150, 50), strict=True)))

    kinds = Counter(re.findall(r"[+-]|^[a-z]+", puzzle.prompt)[0] for puzzle in some)
    drawn = [re.sub(rf"^({'|'.join(VERBS)}) ", "", puzzle.prompt) for puzzle in some]
    assert {split_of(text) for text in drawn} == {"train"}
    assert (kinds.pop("+"), kinds.pop("-")) == (150, 50)
    assert sorted(kinds) == sorted(VERBS)
    assert all(135 < count < 265 for count in kinds.values())  # 200 expected, deviation 13


def test_a_target_comes_the_less_the_better_it_is_known_and_the_learning_rate_rises_then_falls():
    training = Training(held_at=0.2, most=16, steps=1000, warmup=100, learning_rate=1e-3)

    counts = [puzzles_of(training, known) for known in (0.0, 0.05, 0.15, 0.2, 0.9)]
    rates = [learning_rate(training, step) for step in range(1000)]

    assert counts == [16, 12, 4, 0, 0]
    assert max(rates) == rates[99] == rates[100] == 1e-3
    assert 0 < rates[-1] < 1e-8
