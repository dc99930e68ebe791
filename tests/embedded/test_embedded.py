"""The embedded model: small, as its card says, and made by the program that ships with it."""

import math
import re
import subprocess
import sys
from collections import Counter

import pytest
import torch
from click.testing import CliRunner
from scoring import asked

from esft.embedded import EMBEDDED
from esft.embedded.train import (
    CHAT_TEMPLATE,
    VOCABULARY,
    Mixture,
    Training,
    accuracy,
    character_tokenizer,
    learning_rate,
    main,
    puzzles_of,
    train,
    untrained_model,
)
from esft.models.load import load_model
from esft.rollout.batches import Batches
from esft.rollout.encode import encode_prompt
from esft.rollout.generate import greedy_answers
from esft.tasks.rows import read_split
from esft.tasks.synthetic import SYNTHETIC, TARGETS, Puzzle, split_of

TASKS = {task.name: task for task in SYNTHETIC}
TARGET_NAMES = [task.name for task in TARGETS]
FILES = {"README.md", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
FILES |= {"config.json", "generation_config.json"}
VERBS = ("copy", "reverse", "upper", "sort", "largest", "count")
ACCURACY = re.compile(r"\| `([\w-]+)` \| (prior|target) \|.* ([\d.]+)% \+- ([\d.]+)% \|")


@pytest.fixture(scope="module")
def loaded():
    return load_model(str(EMBEDDED), device="cpu")


def puzzle_of(row):
    return Puzzle(asked(row), row.answer)


def card_figures(folder):
    """Role and accuracy of each task in the model card of a folder."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return {name: (role, float(said) / 100) for name, role, said, _ in ACCURACY.findall(text)}


# the folder


def test_the_folder_is_small_and_loads_with_nothing_to_say(loaded):
    tokenizer, config = loaded.tokenizer, loaded.model.config
    settings = loaded.model.generation_config

    assert (EMBEDDED / "model.safetensors").stat().st_size <= 4_000_000
    assert {path.name for path in EMBEDDED.iterdir()} >= FILES
    assert (loaded.notes, loaded.borrowed_pad, loaded.dtype) == ((), False, torch.float32)
    assert tokenizer.eos_token_id == settings.eos_token_id == config.eos_token_id
    assert tokenizer.pad_token_id == settings.pad_token_id == config.pad_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) == config.vocab_size


def test_the_shipped_files_are_those_that_training_writes(loaded):
    tokenizer, fresh = character_tokenizer(), untrained_model(seed=0).state_dict()

    assert loaded.tokenizer.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert loaded.tokenizer.chat_template == CHAT_TEMPLATE
    assert {name: value.shape for name, value in loaded.model.state_dict().items()} == {
        name: value.shape for name, value in fresh.items()
    }


def test_importing_the_folder_loads_no_heavy_library():
    code = "import sys, esft.embedded; print('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


# tokenizer and chat template


@pytest.mark.parametrize("name", TASKS)
def test_every_row_comes_back_from_its_tokens_one_token_a_character(loaded, name):
    tokenizer = loaded.tokenizer
    for split in ("train", "validation", "test"):
        rows = read_split(TASKS[name], split)
        texts = [asked(row) + row.questions[0].reference for row in rows]
        tokens = tokenizer(texts)["input_ids"]

        assert tokenizer.batch_decode(tokens) == texts
        assert all(len(ids) == len(text) for ids, text in zip(tokens, texts, strict=True))
        assert not any(tokenizer.unk_token_id in ids for ids in tokens)
    assert tokenizer("é你")["input_ids"] == [tokenizer.unk_token_id] * 2


@pytest.mark.parametrize(
    ("messages", "text", "ask"),
    [
        (["user: copy ab", "assistant: ab"], "copy ab=ab<end>", False),
        (["user: copy ab", "assistant: ab", "user: 9-2"], "copy ab=ab<end>9-2", True),
        (["system: Be brief.", "user: copy ab"], "Be brief. copy ab", True),
    ],
)
def test_several_messages_are_rendered_too(loaded, messages, text, ask):
    pairs = [dict(zip(("role", "content"), line.split(": "), strict=True)) for line in messages]

    rendered = loaded.tokenizer.apply_chat_template(
        pairs, tokenize=False, add_generation_prompt=ask
    )

    assert rendered == text + "=" * ask


# what it knows


@pytest.mark.parametrize("name", TASKS)
def test_the_model_is_as_right_as_its_card_says_on_priors_well_and_on_targets_badly(loaded, name):
    role, said = card_figures(EMBEDDED)[name]
    puzzles = [puzzle_of(row) for row in read_split(TASKS[name], "test")]

    right = accuracy(loaded.model, loaded.tokenizer, puzzles)

    # The card rounds to 0.1 %; on another machine a near tie or two may fall the other way.
    assert right == pytest.approx(said, abs=0.0045)
    assert role == ("target" if name in TARGET_NAMES else "prior")
    assert right >= 0.95 if role == "prior" else 0.1 <= right <= 0.4


def test_the_greedy_answer_is_right_where_every_token_is_the_argmax(loaded):
    model, tokenizer = loaded.model, loaded.tokenizer
    rows = read_split(TARGETS[0], "test")[:100]

    prompts = [encode_prompt(tokenizer, *row.questions) for row in rows]
    answers = greedy_answers(model, tokenizer, prompts, 8, Batches())

    assert [answer.text == row.answer for row, answer in zip(rows, answers, strict=True)] == [
        accuracy(model, tokenizer, [puzzle_of(row)]) == 1 for row in rows
    ]


# training


def test_training_lowers_the_loss():
    losses = []

    train(
        Training(steps=40, batch=16, warmup=5, every=100),
        untrained_model(seed=1),
        character_tokenizer(),
        lambda step, loss, known: losses.append(loss),
    )

    assert len(losses) == 40
    assert losses[0] == pytest.approx(math.log(len(VOCABULARY)), rel=0.2)
    assert sum(losses[-5:]) / 5 < 0.75 * losses[0]


def test_training_writes_a_folder_that_loads_with_its_card(tmp_path):
    options = ["--out", str(tmp_path), "--steps", "3", "--batch", "8", "--threads", "1"]

    done = CliRunner().invoke(main, options)

    assert done.exit_code == 0, done.output
    printed = {name: float(said) for name, said in re.findall(r"([\w-]+) +([\d.]+)\n", done.stdout)}
    written = {name: said for name, (_, said) in card_figures(tmp_path).items()}
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert load_model(str(tmp_path), device="cpu").notes == ()
    assert list(written) == list(printed) == list(TASKS)
    assert written == pytest.approx(printed, abs=1e-3)


def test_a_mixture_is_of_the_train_split_with_targets_as_asked_and_equal_shares_of_the_priors():
    puzzles = Mixture(seed=0).take(1400, dict(zip(TARGET_NAMES, (150, 50), strict=True)))

    kinds = Counter(re.findall(r"[+-]|^[a-z]+", puzzle.prompt)[0] for puzzle in puzzles)
    drawn = [re.sub(rf"^({'|'.join(VERBS)}) ", "", puzzle.prompt) for puzzle in puzzles]
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
