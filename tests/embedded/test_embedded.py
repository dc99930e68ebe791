import math
import re
import subprocess
import sys
from string import printable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from scoring import asked
from tiny_models import same_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from esft.embedded import EMBEDDED
from esft.embedded.card import Made, card
from esft.embedded.examples import IGNORED, Mixture, accuracy, encode
from esft.embedded.form import CHAT_TEMPLATE, VOCABULARY, character_tokenizer, untrained_model
from esft.embedded.train import Training, learning_rate, puzzles_of, train
from esft.models.load import load_model
from esft.rollout.batches import Batches
from esft.rollout.encode import encode_prompt, encode_reference
from esft.rollout.generate import greedy_answers
from esft.tasks.rows import read_split
from esft.tasks.synthetic import PRIORS, SYNTHETIC, TARGETS
from esft.tasks.synthetic_rows import Puzzle, puzzles, split_of

NAMES = [task.name for task in SYNTHETIC]
FILES = (
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
WRITABLE = [letter for letter in printable if letter not in "\t\r\x0b\x0c"]
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


@pytest.mark.parametrize("file", FILES)
def test_the_folder_is_whole(file):
    assert (EMBEDDED / file).stat().st_size > 0


def test_the_weights_are_float32_and_at_most_4_megabytes():
    weights = EMBEDDED / "model.safetensors"

    assert weights.stat().st_size <= 4_000_000
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float32}


def test_the_model_is_of_half_a_million_to_a_million_weights(loaded):
    assert 500_000 <= loaded.model.num_parameters() <= 1_000_000


def test_it_loads_as_any_other_model_with_nothing_to_say(loaded):
    assert loaded.notes == ()
    assert not loaded.borrowed_pad
    assert loaded.dtype == torch.float32


def test_transformers_load_the_same_weights_and_tokens(loaded):
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED, local_files_only=True)

    assert same_weights(model, loaded.model)
    assert tokenizer.get_vocab() == loaded.tokenizer.get_vocab()
    assert tokenizer.chat_template == loaded.tokenizer.chat_template


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


def test_nothing_is_put_before_or_behind_a_text(tokenizer):
    assert tokenizer.bos_token is None
    assert tokenizer("ab")["input_ids"] == [VOCABULARY.index("a"), VOCABULARY.index("b")]


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


@given(text=st.text(alphabet=WRITABLE).filter(lambda text: "<" not in text))
def test_every_printable_text_comes_back_from_its_tokens(text):
    tokenizer = character_tokenizer()

    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_character_that_is_not_known_is_one_unknown_token(tokenizer):
    assert tokenizer("é你")["input_ids"] == [tokenizer.unk_token_id] * 2


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_the_question_and_the_sign(tokenizer, rows, name):
    for row in rows[name]["test"][:20]:
        question = asked(row)

        assert rendered(tokenizer, *row.questions[0].messages) == question + "="
        assert tokenizer.decode(encode_prompt(tokenizer, *row.questions)) == question + "="


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


def test_the_card_has_a_score_of_every_synthetic_task():
    said = card_scores((EMBEDDED / "README.md").read_text(encoding="utf-8"))

    assert {name for name, (role, _) in said.items() if role == "prior"} == {
        task.name for task in PRIORS
    }
    assert {name for name, (role, _) in said.items() if role == "target"} == {
        task.name for task in TARGETS
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_model_scores_what_its_card_says(scores, name):
    _, said = card_scores((EMBEDDED / "README.md").read_text(encoding="utf-8"))[name]

    # The card rounds to 0.1 %; on another machine a near tie or two may fall the other way.
    assert scores[name] == pytest.approx(said, abs=0.0045)


@pytest.mark.parametrize("task", PRIORS, ids=lambda task: task.name)
def test_prior_tasks_are_known(scores, task):
    assert scores[task.name] >= 0.95


@pytest.mark.parametrize("task", TARGETS, ids=lambda task: task.name)
def test_target_tasks_are_done_badly_but_not_hopelessly(scores, task):
    assert 0.10 <= scores[task.name] <= 0.40


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


@pytest.mark.parametrize("name", ["copy-letters", "add-two-digits"])
def test_accuracy_is_the_share_of_rows_that_are_all_argmax(loaded, scores, name):
    measured = accuracy(loaded.model, loaded.tokenizer, list(puzzles(name, "test")))

    assert measured == pytest.approx(scores[name], abs=0.0021)  # padded: a near tie may turn


# training


def test_untrained_weights_follow_from_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    one, again, other = (untrained_model(seed) for seed in (0, 0, 1))

    assert same_weights(one, again)
    assert not same_weights(one, other)
    assert torch.rand(3).equal(expected)


def test_a_mixture_has_as_many_puzzles_of_each_target_as_asked():
    some = Mixture(seed=0).take(50, {"add-two-digits": 7, "subtract-two-digits": 0})

    assert len(some) == 50
    assert sum("+" in puzzle.prompt for puzzle in some) == 7
    assert sum("-" in puzzle.prompt for puzzle in some) == 0


def test_a_mixture_holds_all_prior_tasks_in_about_equal_shares():
    some = Mixture(seed=0).take(1200, {})

    verbs = [puzzle.prompt.split()[0] for puzzle in some]
    assert len(set(verbs)) == len(PRIORS)
    for verb in set(verbs):
        # 200 expected, standard deviation 13
        assert 135 < verbs.count(verb) < 265


def test_a_mixture_is_of_the_train_split_alone():
    some = Mixture(seed=0).take(2000, {task.name: 400 for task in TARGETS})

    for puzzle in some:
        drawn = re.sub(r"^(copy|reverse|upper|sort|largest|count) ", "", puzzle.prompt)
        assert split_of(drawn) == "train", puzzle


def test_a_target_comes_the_less_the_better_it_is_known():
    training = Training(held_at=0.2, most=16)

    counts = [puzzles_of(training, known) for known in (0.0, 0.05, 0.1, 0.15, 0.2, 0.9)]

    assert counts == [16, 12, 8, 4, 0, 0]


def test_the_learning_rate_rises_then_falls_to_nearly_nothing():
    training = Training(steps=1000, warmup=100, learning_rate=1e-3)

    rates = [learning_rate(training, step) for step in range(1000)]

    assert max(rates) == rates[99] == rates[100] == 1e-3
    assert rates[:100] == sorted(rates[:100])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert 0 < rates[-1] < 1e-8


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


def trained_weights(seed):
    """All weights after three steps of training from `seed`."""
    training = Training(steps=3, batch=8, seed=seed)
    model = untrained_model(seed)
    train(training, model, character_tokenizer(), lambda *_: None)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_training_again_gives_the_same_bits_and_another_seed_others():
    first = trained_weights(3)

    assert trained_weights(3).equal(first)
    assert not trained_weights(4).equal(first)


def test_a_card_names_the_command_and_the_settings():
    scores = dict.fromkeys(NAMES, 0.5)

    text = card(
        Made(
            training=Training(steps=7),
            command="python -m esft.embedded.train --out DIR --steps 7",
            threads=2,
            seconds=90.0,
            weights=865_792,
            scores=scores,
        )
    )

    assert "    python -m esft.embedded.train --out DIR --steps 7\n" in text
    assert "took 1.5 minutes on " in text
    assert "(CPU threads: 2)" in text
    assert "- steps 7\n" in text
    assert "of 865,792 weights" in text
    assert card_scores(text)["add-two-digits"] == ("target", 0.5)
    assert all(len(line) <= 100 for line in text.splitlines())
