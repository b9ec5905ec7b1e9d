"""Reading pages in processes of their own, which are killed when a page takes too long: no page can hold the server up.

Both ends speak over the process's standard streams: a pickled `Fetched` behind its length, and JSON behind its length.
"""

import asyncio
import contextlib
import json
import pickle
import resource
import struct
import sys
from dataclasses import dataclass, field

from backends.errors import ToolFailed
from backends.tool_server.fetch import Fetched

PROCESSES = 2
SECONDS = 20.0
_MEMORY = 2_000_000_000
"""Bytes of address space that a page may take to read."""
_LENGTH = struct.Struct("!I")


@dataclass
class Extractor:
    """Turns fetched pages into Markdown, so many at a time."""

    seconds: float = SECONDS
    _idle: list[asyncio.subprocess.Process] = field(default_factory=list)
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PROCESSES))

    async def markdown(self, fetched: Fetched) -> str:
        """The main content. Raises ToolFailed when there is none, or it takes longer than `seconds`."""
        async with self._places:
            self._idle = [idle for idle in self._idle if idle.returncode is None]
            process = self._idle.pop() if self._idle else await _started()
            try:
                async with asyncio.timeout(self.seconds):
                    answer = await _asked(process, fetched)
            except TimeoutError as error:
                raise ToolFailed(f"the page could not be read within {self.seconds:g} s") from error
            except (asyncio.IncompleteReadError, OSError) as error:
                raise ToolFailed("the page is too much to read") from error
            else:
                self._idle.append(process)
            finally:
                if process not in self._idle:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        if "error" in answer:
            raise ToolFailed(answer["error"])
        return answer["markdown"]

    async def aclose(self) -> None:
        """End the processes."""
        for process in self._idle:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        self._idle.clear()


async def _started() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "backends.tool_server.extractor", stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


async def _asked(process: asyncio.subprocess.Process, fetched: Fetched) -> dict[str, str]:
    assert process.stdin and process.stdout
    page = pickle.dumps(fetched)
    process.stdin.write(_LENGTH.pack(len(page)) + page)
    await process.stdin.drain()
    (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
    answer: dict[str, str] = json.loads(await process.stdout.readexactly(length))
    return answer


def main() -> None:
    """Read pages until the server is gone."""
    from backends.tool_server.webpage import MAX_CHARACTERS, as_markdown

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := asked.read(_LENGTH.size):
        fetched = pickle.loads(asked.read(_LENGTH.unpack(head)[0]))  # noqa: S301 -- from our own server
        try:
            answer = {"markdown": as_markdown(fetched)[:MAX_CHARACTERS]}
        except ToolFailed as error:
            answer = {"error": str(error)}
        except Exception as error:
            answer = {"error": f"the page cannot be read ({type(error).__name__})"}
        body = json.dumps(answer).encode()
        answers.write(_LENGTH.pack(len(body)) + body)
        answers.flush()


if __name__ == "__main__":
    main()
