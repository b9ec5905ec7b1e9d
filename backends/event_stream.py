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
    _id: str | None = None
    _kind: str = ""

    async def events(self, stream: aiohttp.StreamReader, most: int) -> AsyncIterator[str]:
        """The data of each message that has any; events of other kinds are passed over. Raises TooLong beyond `most`
        bytes in all.
        """
        self._data.clear()
        self._id, self._kind = self.last_id, ""
        async for line in self._lines(stream, most):
            if line:
                self._take(line)
                continue
            data, kind = "\n".join(self._data), self._kind
            self._data.clear()
            self.last_id, self._kind = self._id, ""  # only a whole event has been heard
            if data.strip() and kind in ("", "message"):  # one without data primes the stream: it brings an id
                yield data

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value or None
        elif name == "event":
            self._kind = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = min(int(value) / 1000, 30.0)

    async def _lines(self, stream: aiohttp.StreamReader, most: int) -> AsyncIterator[str]:
        """Lines without their ends: LF, CRLF or CR."""
        rest, first, after_cr = bytearray(), True, False
        async for piece in stream.iter_any():
            self.size += len(piece)
            if self.size > most:
                raise TooLong(f"the answer is longer than {most / 1e6:g} MB")
            rest += piece.removeprefix(b"\n") if after_cr else piece  # the second half of a CRLF
            after_cr = piece.endswith(b"\r")
            if b"\n" not in piece and b"\r" not in piece:
                continue
            *lines, last = bytes(rest).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            rest = bytearray(last)
            for line in lines:
                text = line.decode("utf-8", "replace")
                yield text.removeprefix("\ufeff") if first else text
                first = False
