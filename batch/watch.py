"""The progress of a run: two lines in a terminal, a line every half minute elsewhere; the statistics every minute."""

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tqdm import tqdm

from backends.errors import UsageError
from batch.logs import draw_over, is_json, log
from batch.progress import Progress
from batch.stats import commonest

_REDRAWN, _SAID, _WRITTEN = 0.5, 30.0, 60.0
"""Seconds between two drawings, two lines, two statistics files."""
_WINDOW = 300.0
"""Seconds over which rates are taken."""


class Watch:
    """Looks at a run's counts and says how it goes. Rates are those of the last minutes."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._began = time.monotonic()
        self._before = progress.stats.counts.total()
        self._seen: deque[tuple[float, int, int, int]] = deque([self._look()])

    def _look(self) -> tuple[float, int, int, int]:
        stats = self._progress.stats
        return time.monotonic(), stats.counts.total(), stats.replies, stats.output_tokens

    def facts(self) -> dict[str, Any]:
        """The numbers of now: counts, shares, rates a second, and the seconds that are left (None where unknown)."""
        self._seen.append(now := self._look())
        while len(self._seen) > 2 and now[0] - self._seen[0][0] > _WINDOW:
            self._seen.popleft()
        since = self._seen[0]
        seconds = max(now[0] - since[0], 0.001)
        done, replies, tokens = ((new - old) / seconds for new, old in zip(now[1:], since[1:], strict=True))
        stats, asked = self._progress.stats, self._progress.asked
        counts, reasons = stats.counts, stats.reasons
        left = asked - counts.total()
        return {
            "done": counts.total(), "asked": asked, "accepted": counts["accepted"], "rejected": counts["rejected"],
            "failed": counts["failed"], "pending": left, "reject_reasons": dict(commonest(reasons)),
            "tool_errors": stats.tool_errors, "per_second": round(done, 4), "replies_per_second": round(replies, 3),
            "tokens_per_second": round(tokens, 1), "seconds_left": round(left / done) if done and left else None,
        }  # fmt: skip

    def lines(self, width: int) -> tuple[str, str]:
        """The bar, and what became of what is done; each fits the width."""
        facts = self.facts()
        bar = tqdm.format_meter(
            facts["done"], facts["asked"], time.monotonic() - self._began, ncols=width, unit=" samples",
            rate=facts["per_second"] or None, initial=self._before,
        )  # fmt: skip
        return bar[:width], outcome_line(facts, width)


def outcome_line(facts: Mapping[str, Any], width: int) -> str:
    """Accepted, rejected with the commonest reason, failed, rates, tool errors; shorter where there is no room."""
    finished = facts["accepted"] + facts["rejected"]
    share = f"{100 * facts['accepted'] / finished:.0f}%" if finished else "-"
    reason = next(iter(facts["reject_reasons"]), "")
    many = next(iter(facts["reject_reasons"].values()), 0)
    rates = f"{facts['replies_per_second']:.1f} replies/s, {facts['tokens_per_second']:,.0f} tokens/s"
    long = [
        f"{share} accepted", f"{facts['rejected']:,} rejected" + (f" ({reason} {many:,})" if reason else ""),
        f"{facts['failed']:,} failed", rates, f"{facts['tool_errors']:,} tool errors",
    ]  # fmt: skip
    if len(line := " · ".join(long)) <= width:
        return line
    failed = [f"{facts['failed']:,} failed"] if facts["failed"] else []
    errors = [f"{facts['tool_errors']:,} tool err"] if facts["tool_errors"] else []
    pace = f"{facts['replies_per_second']:.1f} r/s {facts['tokens_per_second']:,.0f} tok/s"
    short = [f"{share} accepted", f"{facts['rejected']:,} rejected", *failed, pace, *errors]
    room = width - len(" · ".join(short)) - len(" : ")
    if reason and room >= 3:
        short[1] += f": {reason if len(reason) <= room else reason[: room - 1] + '…'}"
    return " · ".join(short)[:width]


def duration(seconds: float | None) -> str:
    """`3 h 20 min`, `12 min`, `40 s`; never nothing while something is left."""
    if seconds is None:
        return "unknown"
    minutes = -(-int(seconds) // 60)
    if seconds < 60:
        return f"{max(int(seconds), 1)} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


@asynccontextmanager
async def watched(progress: Progress, started: float) -> AsyncIterator[None]:
    """While it lasts, progress is shown or said, and the statistics are kept true. `started` is in monotonic time."""
    watch = Watch(progress)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(_ended, asyncio.create_task(_keep_statistics(progress, started)))
        if sys.stderr and sys.stderr.isatty() and not is_json():
            stack.push_async_callback(_ended, asyncio.create_task(_draw_or_say(watch)))
        else:
            stack.push_async_callback(_ended, asyncio.create_task(_say(watch)))
        yield


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _keep_statistics(progress: Progress, started: float) -> None:
    while True:
        await asyncio.sleep(_WRITTEN)
        with contextlib.suppress(OSError, UsageError):  # a full disk, damage: said where a sample is written, or read
            progress.write_stats(time.monotonic() - started)
            await asyncio.to_thread(progress.save_index)
        try:
            await asyncio.to_thread(progress.upload)
        except (OSError, UsageError) as error:
            log.warning("not copied yet, and tried again: %s", error)


async def _say(watch: Watch) -> None:
    while True:
        await asyncio.sleep(_SAID)
        facts = watch.facts()
        line = f"{facts['done']:,} of {facts['asked']:,} done, {duration(facts['seconds_left'])} left · "
        log.info("%s", line + outcome_line(facts, 1000), extra={"facts": {"event": "progress", **facts}})


async def _draw_or_say(watch: Watch) -> None:
    """Draw; without a word where the terminal goes away meanwhile."""
    try:
        await _draw(watch)
    except OSError:
        draw_over(None)
        this = asyncio.current_task()
        if this and not this.cancelling():  # else the run has ended, and leaving the terminal is what failed
            await _say(watch)


async def _draw(watch: Watch) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        draw_over(lambda line: live.console.print(Text(line)))

        def draw() -> None:
            shown = "\n".join(watch.lines(console.width - 1))
            live.update(Text(shown, no_wrap=True, overflow="crop"), refresh=True)

        try:
            while True:
                draw()
                await asyncio.sleep(_REDRAWN)
        finally:
            with contextlib.suppress(OSError):
                draw()
            draw_over(None)
