"""A Modelfile: how Ollama makes a model of an exported folder, with the same prompts and ends."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from esft.models.identity import stop_tokens
from esft.models.load import LoadedModel

READ = ("Llama", "Mistral", "Mixtral", "Gemma", "Gemma2", "Gemma3", "Phi3", "Qwen2", "Cohere")
"""Architectures that Ollama reads as safetensors, without ForCausalLM behind them."""

_USER, _SYSTEM, _ANSWER = "\x01user\x01", "\x01system\x01", "\x01answer\x01"
_HEAD = """\
# esft wrote this: ollama create NAME -f Modelfile, then ollama run NAME
FROM .
# Greedy and without penalty, as the answers were measured; leave these out to sample.
PARAMETER temperature 0
PARAMETER repeat_penalty 1
"""


@dataclass(frozen=True)
class TurnTexts:
    """A chat template that only puts fixed texts around messages."""

    start: str
    """Before a chat without a system message."""
    system: tuple[str, str] | None
    """Before and behind a system message; None where the template takes none."""
    user: tuple[str, str]
    assistant: tuple[str, str]
    opening: str
    """Where the next answer begins."""

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """Return a chat as text, up to where the model answers."""
        text = "" if messages[0]["role"] == "system" else self.start
        for message in messages:
            before, behind = getattr(self, message["role"])
            text += before + message["content"] + behind
        return text + self.opening

    def as_go(self) -> str:
        """Return the same in the language of Ollama's templates."""
        start = f"{{{{ if not .System }}}}{self.start}{{{{ end }}}}" if self.start else ""
        turns, word = "", "if"
        for role in ("system", "user", "assistant"):
            if (texts := getattr(self, role)) is not None:
                content = "{{ .Content }}".join(texts)
                turns += f'{{{{ {word} eq .Role "{role}" }}}}{content}'
                word = "else if"
        turns = f"{{{{ range .Messages }}}}{turns}{{{{ end }}}}{{{{ end }}}}"
        return start + turns + self.opening


def why_not(loaded: LoadedModel, folder: Path) -> str | None:
    """Return why Ollama cannot read the model in a folder; None where it can."""
    kind = type(loaded.model).__name__
    if kind.removesuffix("ForCausalLM") not in READ:
        return f"Ollama reads no {kind} as safetensors"
    fast = getattr(loaded.tokenizer, "backend_tokenizer", None)
    by_bytes = fast is not None and '"ByteLevel"' in fast.to_str()
    if not by_bytes and not (folder / "tokenizer.model").exists():
        return "Ollama reads no tokenizer but byte-level BPE and tokenizer.model"
    return None


def modelfile(loaded: LoadedModel) -> str:
    """Return the text of a Modelfile; a template stands in it where `turn_texts` finds one."""
    tokenizer = loaded.tokenizer
    lines = [_HEAD]
    for stop in stop_tokens(loaded.model, tokenizer):
        text = tokenizer.convert_ids_to_tokens(stop)
        lines.append(f"PARAMETER stop {json.dumps(text, ensure_ascii=False)}\n")
    if tokenizer.chat_template is None:
        lines.append("# The model has no chat template: it is asked in plain text.\n")
        lines.append('TEMPLATE """{{ .Prompt }}\nAnswer:"""\n')
        return "".join(lines)
    texts = turn_texts(tokenizer)
    if texts is None:
        lines.append(
            "# Its chat template does more than fixed texts: Ollama chooses its own for it.\n"
        )
    else:
        lines.append(f'TEMPLATE """{texts.as_go()}"""\n')
    return "".join(lines)


def turn_texts(tokenizer) -> TurnTexts | None:
    """Return the fixed texts of a chat template, checked on chats of one to three turns; None where
    it does anything else: loops over tools, writes the date, strips contents."""
    template = str(tokenizer.chat_template)
    if "strftime" in template:  # the date of today would stay for ever
        return None
    try:
        texts = _guessed(tokenizer)
        chats = _chats(texts.system is not None)
        if any(_written(tokenizer, chat) != texts.render(chat) for chat in chats):
            return None
    except ValueError:
        return None
    adds_bos = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    texts = _without(texts, tokenizer.bos_token) if adds_bos else texts
    # What would be taken for Ollama's own signs; the fixed texts stand in the repr.
    return None if re.search(r'{{|}}|"""', repr(texts)) else texts


def _guessed(tokenizer) -> TurnTexts:
    """Return the texts that three small chats show; ValueError where they show none."""
    user = {"role": "user", "content": _USER}
    answered = [user, {"role": "assistant", "content": _ANSWER}]
    alone = _written(tokenizer, [user], opens=False)
    opening = _written(tokenizer, [user]).removeprefix(alone)
    first, between, again, last = _split(_written(tokenizer, [*answered, user]))
    *_, behind_answer = _split(_written(tokenizer, answered, opens=False))
    before_user, behind_user = again.removeprefix(behind_answer), last.removesuffix(opening)
    try:
        head, middle, _ = _split(
            _written(tokenizer, [{"role": "system", "content": _SYSTEM}, user])
        )
        system = head, middle.removesuffix(before_user)
    except ValueError:
        system = None
    return TurnTexts(
        start=first.removesuffix(before_user),
        system=system,
        user=(before_user, behind_user),
        assistant=(between.removeprefix(behind_user), behind_answer),
        opening=opening,
    )


def _chats(with_system: bool) -> list[list[dict[str, str]]]:
    """Return chats of one to three turns, each with and without a system message before it."""
    turns = [("user", "Who?"), ("assistant", "Ada.\nAnd Bob."), ("user", "1 < 2?")]
    turns += [("assistant", "Yes"), ("user", "So?")]
    said = [{"role": role, "content": text} for role, text in turns]
    chats = [said[:length] for length in (1, 3, 5)]
    system = {"role": "system", "content": "Be brief."}
    return chats + ([[system, *chat] for chat in chats] if with_system else [])


def _written(tokenizer, chat: Sequence[dict[str, str]], *, opens: bool = True) -> str:
    """Return a chat as the template writes it; ValueError where it refuses."""
    try:
        return tokenizer.apply_chat_template(
            list(chat), tokenize=False, add_generation_prompt=opens
        )
    except Exception as error:  # a template is a program of its own, which raises what it likes
        raise ValueError("the template refuses the chat") from error


def _split(text: str) -> list[str]:
    return re.split("|".join((_USER, _SYSTEM, _ANSWER)), text)


def _without(texts: TurnTexts, bos: str) -> TurnTexts:
    """Take away the token that begins a text, which Ollama writes itself."""
    if not texts.start.startswith(bos):
        return texts
    system = texts.system and (texts.system[0].removeprefix(bos), texts.system[1])
    return replace(texts, start=texts.start.removeprefix(bos), system=system)
