"""Does a row survive a chat template? Each is rendered, and every thought, call, result and answer looked for in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backends.errors import UserError
from training.messages import Message
from training.rows import Row

_ADVICE = {
    "drtulu": "the template keeps only the end of an assistant message: --format messages survives, with each tool "
    "result in a message of its own",
    "messages": "the template drops the thoughts before the last user message: export tool results in role tool",
}
_NAMES = {"think": "thought", "call_tool": "call", "tool_output": "result"}


class Template:
    """A Jinja chat template. Raises UserError when it cannot be read."""

    def __init__(self, path: Path) -> None:
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise UserError("--verify-template needs an extra: pip install -e '.[training]'") from error
        self._failure = TemplateError
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )

        def refuse(message: Any) -> None:
            raise TemplateError(str(message))

        environment.globals["raise_exception"] = refuse
        self.path = path
        try:
            self._template = environment.from_string(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, TemplateError) as error:
            raise UserError(f"--verify-template {path}: {error}") from error

    def rendered(self, told: Sequence[Message]) -> str:
        """The text that would be trained on. Raises UserError when the template refuses the messages."""
        try:
            return self._template.render(messages=list(told), add_generation_prompt=False, tools=None)
        except (self._failure, TypeError, ValueError) as error:
            raise UserError(f"--verify-template {self.path} refuses the messages: {error}") from error


def missing(row: Row, rendered: str) -> list[str]:
    """What of the trajectory is not in the rendered text, in its order."""
    found, at = [], 0
    for piece in row.apart.pieces:
        body = piece.body.strip()
        place = rendered.find(body, at)
        if place < 0:
            found.append(f"{_NAMES.get(piece.kind, piece.kind)} {_shortened(body)}")
        else:
            at = place + len(body)
    return found


def wrongly_masked(row: Row, trained: Sequence[str]) -> list[str]:
    """What the spans leave out of what the model wrote, or take in of what it did not; by place, not by letters."""
    text, found, at = row.text, [], 0
    marked = bytearray(len(text))
    for part in trained:
        place = text.find(part, at)
        if place < 0:
            found.append(f"trained on although it is not the trajectory's: {_shortened(part)}")
            continue
        at = place + len(part)
        marked[place:at] = b"\1" * len(part)
    for piece in row.apart.pieces:
        covered = marked[piece.start : piece.end]
        if piece.kind == "tool_output" and any(covered):
            found.append(f"trained on although a tool gave it: {_shortened(piece.body.strip())}")
        elif piece.kind != "tool_output" and not all(covered[: len(text[piece.start : piece.end].rstrip())]):
            found.append(f"masked although the model wrote it: {_shortened(piece.body.strip())}")
    return found


def advice(format_name: str) -> str:
    """Which format or setting avoids the loss."""
    return _ADVICE.get(format_name, "compare what --format messages gives")


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
