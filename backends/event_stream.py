"""Server-sent events, as the HTML standard defines the stream: comments, ids, `retry`, data of many lines."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp

from backends.bounded import TooLong


@dataclass
class EventStream:
    """What a stream has said so far of how to take it up again."""

    last_id: str | None = None
    retry: float | None = None
    """Seconds to wait before that."""
    size: int = 0
    _data: list[str] = field(default_factory=list)

    async def events(self, stream: aiohttp.StreamReader, most: int) -> AsyncIterator[str]:
        """The data of each event that has any. Raises TooLong beyond `most` bytes in all."""
        self._data.clear()
        async for line in self._lines(stream, most):
            if line:
                self._take(line)
                continue
            data = "\n".join(self._data)
            self._data.clear()
            if data.strip():  # one without data primes the stream: it brings an id
                yield data

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self.last_id = value or None
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = min(int(value) / 1000, 30.0)

    async def _lines(self, stream: aiohttp.StreamReader, most: int) -> AsyncIterator[str]:
        """Lines without their ends: LF, CRLF or CR."""
        rest, first = bytearray(), True
        async for piece in stream.iter_any():
            self.size += len(piece)
            if self.size > most:
                raise TooLong(f"the answer is longer than {most / 1e6:g} MB")
            rest += piece
            if b"\n" not in piece and b"\r" not in piece:
                continue
            whole = bytes(rest)
            held = b"\r" if whole.endswith(b"\r") else b""  # perhaps half of a CRLF
            *lines, last = whole.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            rest = bytearray(last + held)
            for line in lines:
                text = line.decode("utf-8", "replace")
                yield text.removeprefix("\ufeff") if first else text
                first = False
        if rest.endswith(b"\r"):
            yield rest[:-1].decode("utf-8", "replace")
