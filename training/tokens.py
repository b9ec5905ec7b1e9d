"""Tokens: by a model's own tokenizer, with the chat template that comes with it, or by a server's."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from backends.errors import UsageError, extra_missing
from quality.gates import estimated_tokens
from training.chat_template import ChatTemplate
from training.messages import Message

_FLAG = "--tokenizer"
_MARKUP = re.compile(r"</?[\w|.-]*[_|][\w|.-]*>")
_OF_TEXTS = frozenset({"<think>", "</think>"})
"""Special tokens of some models that are in what a model says."""


class Tokenizer:
    """Of a model's folder as the Hub has it, or of a `tokenizer.json`. Raises UsageError when it cannot be read."""

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer as Loaded
        except ImportError as error:
            raise extra_missing(_FLAG, "training") from error
        folder = path if path.is_dir() else path.parent
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            self._loaded = Loaded.from_file(str(file))
        except Exception as error:  # of any kind, as it is written in another language
            raise UsageError(f"{_FLAG} {file}: {error}") from error
        self._loaded.no_truncation()  # as a trainer takes it: it cuts by itself
        self._loaded.no_padding()
        added = self._loaded.get_added_tokens_decoder()
        self.special = frozenset(token.content for token in added.values() if token.special) - _OF_TEXTS
        """What no text means: `<|im_end|>`, say."""
        self.template = _template_of(folder)
        """None where none lies beside it."""
        self.control = self.special | {token.content for token in added.values() if _MARKUP.fullmatch(token.content)}
        """These, and others that stand for a part of a conversation: `</tool_response>`."""

    def count(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self._loaded.encode(text, add_special_tokens=False).ids)

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where in a text each of its tokens begins and ends, in characters: a mark that goes into the letter before it
        (`e` and an accent) is that one's.
        """
        places = list(self._loaded.encode(text, add_special_tokens=False).offsets)
        starts = [*(start for start, _ in places[1:]), len(text)]
        return [(start, max(end, after)) for (start, end), after in zip(places, starts, strict=False)]


def _template_of(folder: Path) -> ChatTemplate | None:
    """The chat template in a model's folder: a file of its own, or in the tokenizer's settings."""
    about, alone = _settings(folder / "tokenizer_config.json"), folder / "chat_template.jinja"
    source = about.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = next((one.get("template") for one in source if one.get("name") == "default"), None)
    try:
        source = alone.read_text(encoding="utf-8") if alone.exists() else source
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{alone}: {error}") from error
    if not isinstance(source, str):
        return None
    return ChatTemplate(
        f"the chat template of {folder}", source, bos=_text_of(about.get("bos_token")),
        eos=_text_of(about.get("eos_token")),
    )  # fmt: skip


def _settings(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from error
    return about if isinstance(about, dict) else {}


def _text_of(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


@dataclass(frozen=True)
class Tokens:
    """How many tokens a conversation has: as its template renders it, where one is known, else its texts'."""

    count: Callable[[str], int] = estimated_tokens
    template: ChatTemplate | None = None

    @property
    def said(self) -> str:
        """What is counted."""
        return f"as {self.template.name} renders a row" if self.template else "the texts alone: no template is known"

    def __call__(self, chat: Sequence[Message]) -> int:
        if self.template:
            return self.count(self.template.text(chat))
        return sum(self.count(str(said["content"])) for said in chat)


def count_at(url: str) -> Callable[[str], int]:
    """A count by vLLM's `/tokenize` at an address. Raises UsageError when it does not answer."""
    client = httpx.Client(timeout=30, trust_env=False)

    def count(text: str) -> int:
        try:
            return int(client.post(url, json={"prompt": text}).raise_for_status().json()["count"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"--tokenize-url {url}: no count of tokens ({type(error).__name__})") from error

    return count
