"""`esft ask`: what the base model and the tuned one say, under each other."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.cells import cell_len

from esft.cli.options import GroupedCommand, complete_runs, json_option, rebuild_options
from esft.cli.show import show_work
from esft.rollout.typed import json_text

if TYPE_CHECKING:
    from esft.cli.show import PlainWatcher
    from esft.evals.ask import Asked, Chat, Reply

_NAME = r"[\w.~/\\:@-]*[A-Za-z][\w.~/\\:@-]*"
"""A word that could be meant as a run or a model."""
_LABEL = 7  # columns before an answer


@click.command(cls=GroupedCommand, short_help="Ask the base model and the tuned one.")
@click.argument("words", nargs=-1, metavar="[RUN|MODEL] [QUESTION]", shell_complete=complete_runs)
@rebuild_options
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Ask the questions of a text file, one a line.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Length of an answer, at most.",
)
@json_option
def ask(
    words: tuple[str, ...],
    at: str,
    file: Path | None,
    tokens: int,
    as_json: bool,
    **which: object,
) -> None:
    """Ask RUN a question: what its base model says and what the tuned one says.

    RUN is a name under runs/, a path, or a journal; without one, the newest run. A MODEL, as in
    esft tune --model, answers by itself. Without QUESTION and --file, talk to them: Ctrl-D ends,
    Ctrl-C stops an answer, /new forgets what was said.

    Each answer is the likeliest one word by word, as it is while tuning, with the model's own
    chat template; nothing is drawn at random.

    \b
    Examples:
      esft ask "What is the symbol of mercury?"
      esft ask arc-qwen2.5-1.5b-1 --at 120 "Why is the sky blue?"
      esft ask Qwen2.5-1.5B
      esft ask --file questions.txt --json
    """
    from esft.evals.ask import open_asked, questions_in
    from esft.tuning.rebuild import RebuildOptions

    name, question = _meant(words, file)
    if as_json and question is None and file is None:
        raise click.UsageError("--json needs a question, or --file")
    questions = [question] if file is None else questions_in(file)
    with show_work() as watcher:
        asked = open_asked(name, at, watcher, RebuildOptions(**which))
        record = _record(asked, questions, tokens, watcher) if as_json or file else None
    if as_json:
        click.echo(json_text(record))
        return
    click.echo(_about(asked))
    if record is not None:
        _print(record, asked.voices)
    elif question is not None:
        _answered(asked.chats(), question, tokens)
    else:
        _talk(asked, tokens)


def _meant(words: tuple[str, ...], file: Path | None) -> tuple[str | None, str | None]:
    """Return run or model, and question; None for what is not said."""
    from esft.evals.ask import is_askable

    if len(words) > 2 or (file is not None and len(words) > 1):
        raise click.UsageError('put the question in quotes: esft ask RUN "QUESTION"')
    if len(words) != 1 or file is not None:
        return (*words, None, None)[:2]
    if is_askable(words[0]):
        return words[0], None
    if re.fullmatch(_NAME, words[0], re.ASCII):
        raise click.UsageError(
            f"{words[0]} is neither a run nor a model; a question of one word comes after a run: "
            f"esft ask RUN {words[0]}"
        )
    return None, words[0]


def _about(asked: Asked) -> str:
    if asked.step is None:
        return f"model {asked.name}"
    if asked.base is None:
        return f"step {asked.step} of {asked.name}"
    return f"step {asked.step} of {asked.name}, base model {asked.loaded.id}"


def _record(
    asked: Asked, questions: list[str], tokens: int, watcher: PlainWatcher
) -> dict[str, object]:
    from esft.evals.ask import MODEL, messages_of

    chats = [messages_of(text) for text in questions]
    replies = {}
    for voice in asked.voices:
        watcher.phase(f"asking the {voice} model" if voice != MODEL else "asking the model")
        replies[voice] = asked.answer(voice, chats, tokens)
    answers = [
        {"question": text} | {voice: those[number] for voice, those in replies.items()}
        for number, text in enumerate(questions)
    ]
    run = None if asked.step is None else asked.name
    return {"model": asked.loaded.id, "run": run, "step": asked.step, "answers": answers}


def _print(record: dict, voices: tuple[str, ...]) -> None:
    for one in record["answers"]:
        click.echo(f"\n> {_printable(one['question'])}")
        for voice in voices:
            answer = _Answer(voice)
            answer.add(one[voice].text)
            answer.end(one[voice])


def _answered(chats: tuple[Chat, ...], text: str, tokens: int) -> tuple[Chat, ...]:
    """Print the answers to `text` as they are made; return the talks with them."""
    after = []
    for chat in chats:
        answer = _Answer(chat.voice)
        reply, now = chat.say(text, tokens, answer.add)
        answer.end(reply)
        after.append(now)
    return tuple(after)


def _talk(asked: Asked, tokens: int) -> None:
    """Answer what is typed until it ends."""
    chats = asked.chats()
    if sys.stdin.isatty():
        click.echo("Ctrl-D ends, /new forgets what was said.", err=True)
        if not asked.remembers:
            click.echo("This model is asked each question by itself: it knows no talks.", err=True)
    for line in _typed():
        if line == "/new":
            chats = asked.chats()
        elif line:
            try:
                chats = _answered(chats, line, tokens)
            except KeyboardInterrupt:
                click.echo("\n(stopped; that question is forgotten)")


def _typed() -> Iterator[str]:
    """Yield what is typed, line by line; with the arrow keys where readline is there."""
    with suppress(ImportError):
        import readline  # noqa: F401  input() uses it from now on
    prompt = "\n> " if sys.stdin.isatty() else ""
    with suppress(EOFError):
        while True:
            yield input(prompt).strip()
    if prompt:
        click.echo()  # Ctrl-D leaves the cursor behind the prompt


class _Answer:
    """Prints an answer piece by piece, folded to the terminal's width behind its label."""

    def __init__(self, label: str) -> None:
        self._width = min(100, shutil.get_terminal_size().columns)
        self._column, self._space = _LABEL, ""
        self._print(f"{label:<{_LABEL}}")

    def add(self, text: str) -> None:
        for part in re.findall(r"\n|[^\S\n]+|\S+", text):
            if part == "\n":
                self._break()
            elif part.isspace():
                self._space = " " * len(part)
            else:
                self._word(_printable(part))

    def end(self, reply: Reply) -> None:
        notes = [] if reply.text.strip() else ["nothing"]
        notes += [f"cut after {reply.tokens} tokens"] if reply.cut else []
        notes += [] if reply.finite else ["the model overflows: its logits are NaN"]
        for note in notes:
            self._space = " " * (self._column > _LABEL)
            self._word(f"[{note}]")
        self._print("\n")

    def _word(self, word: str) -> None:
        length = cell_len(self._space + word)
        if self._column > _LABEL and self._column + length > self._width:
            self._break()
            length = cell_len(word)
        self._print(self._space + word)
        self._column += length
        self._space = ""

    def _break(self) -> None:
        self._print("\n" + " " * _LABEL)
        self._column, self._space = _LABEL, ""

    def _print(self, text: str) -> None:
        click.echo(text, nl=False)


def _printable(text: str) -> str:
    """Return a text without what would steer the terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
