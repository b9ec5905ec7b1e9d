"""A chat template, rendered as the trainers render it, within bounds: it is a program of others."""

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from backends.errors import UsageError, extra_missing
from training.bounds import bounded
from training.messages import Message

BEGIN, END = "\ufdd0", "\ufdd1"
"""Around what a template marks as `{% generation %}`: no characters, and taken out of any text that has them."""
NO_MARKS = {ord(BEGIN): None, ord(END): None}


class ChatTemplate:
    """A Jinja chat template; `name` says whose it is. Raises UsageError when it cannot be read."""

    def __init__(self, name: str, source: str, *, bos: str = "", eos: str = "") -> None:
        try:
            from jinja2 import TemplateError
        except ImportError as error:
            raise extra_missing(name, "training") from error
        self.name, self.source = name, source
        self.marks = re.search(r"\{%-?\s*generation\b", source) is not None
        """Whether it marks what is to be trained on."""
        self._failure, self._beside = TemplateError, {"bos_token": bos, "eos_token": eos}
        try:
            with bounded():  # constants are worked out here
                environment = _environment()
                self._template = environment.from_string(source)
                captured = _captured(environment.parse(source))
        except Exception as error:  # a template is a program: it may fail in any way
            raise UsageError(f"{name}: {error}") from error
        if captured:
            raise UsageError(
                f"{name}: {{% generation %}} within a macro or a captured block marks other letters than are meant: "
                "write it where its text is put out"
            )

    @classmethod
    def read(cls, path: Path) -> "ChatTemplate":
        """The one in a file. Raises UsageError."""
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--verify-template {path}: {error}") from error
        return cls(f"--verify-template {path}", source)

    def with_marks(self, chat: Sequence[Message], *, asking: bool = False) -> str:
        """A conversation as text, `BEGIN` and `END` around what is marked; `asking` for the next reply, too. Raises
        UsageError when the template refuses it.
        """
        messages = [{**said, "content": str(said["content"]).translate(NO_MARKS)} for said in chat]
        try:
            with bounded():
                text: str = self._template.render(
                    messages=messages, add_generation_prompt=asking, tools=None, **self._beside
                )
                return text
        except self._failure as error:
            raise UsageError(f"{self.name} refuses the messages: {error}") from error
        except Exception as error:  # a template is a program: it may fail in any way
            raise UsageError(f"{self.name}: {type(error).__name__}: {error}") from error

    def marked(self, chat: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """A conversation as text, and the ranges of it that are marked."""
        return without_marks(self.with_marks(chat))

    def text(self, chat: Sequence[Message], *, asking: bool = False) -> str:
        """A conversation as text."""
        return without_marks(self.with_marks(chat, asking=asking))[0]


def without_marks(text: str) -> tuple[str, list[tuple[int, int]]]:
    """A rendered text, and the ranges that were marked in it."""
    bare, size, ranges = list[str](), 0, list[tuple[int, int]]()
    for part in re.split(f"({BEGIN}|{END})", text):
        if part == BEGIN:
            ranges.append((size, size))
        elif part == END:
            ranges[-1] = (ranges[-1][0], size)
        else:
            bare.append(part)
            size += len(part)
    return "".join(bare), ranges


def _captured(tree: Any) -> bool:
    """Whether a mark is in a block whose text is not put out at once: trainers lose its place then."""
    from jinja2 import nodes

    blocks = tree.find_all((nodes.Macro, nodes.AssignBlock, nodes.FilterBlock))
    marks = (call.node for block in blocks for call in block.find_all(nodes.Call))
    return any(isinstance(node, nodes.ExtensionAttribute) and node.name == "_marked" for node in marks)


def _tojson(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
    """As transformers has it: no letter is escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


def _environment() -> Any:
    """Jinja as the trainers set it up: `raise_exception`, `strftime_now`, `{% generation %}`."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

        def _marked(self, caller: Callable[[], str]) -> str:
            return f"{BEGIN}{caller()}{END}"

    def refuse(message: Any) -> None:
        raise TemplateError(str(message))

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = _tojson
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
