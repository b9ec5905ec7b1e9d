"""How many requests a server is given at a time: as many as it bears."""

import time

_QUICKEST_FADES = 1.002
"""What the quickest reply is multiplied by at each reply, so that one of long ago counts no more."""
_USED = 0.8
"""The share of a limit that must be in use before more is tried."""


class AdaptiveLimit:
    """At most `most` at a time: half as many after an overload, once in the time of a reply, and one more for each
    round of replies that went well.

    One of several servers begins `low`: it gets twice as many with each round until it slows down, refuses, or says
    that requests wait in it; from then on more by little.
    """

    def __init__(self, most: int, low: int | None = None) -> None:
        self.most = most
        self.limit = float(min(low or most, most))
        self.in_flight = 0
        self.reply_time = 0.0
        """Seconds, as of late; 0 before the first reply."""
        self._learns = low is not None
        self._rises_fast = True
        self._says_what_waits = False
        self._quickest = 0.0
        self._lowered = float("-inf")

    @property
    def room(self) -> int:
        """How many more it may be given now."""
        return max(int(self.limit), 1) - self.in_flight

    def answered(self, seconds: float) -> None:
        """A reply came, after so many seconds."""
        self.reply_time += (0.2 if self.reply_time else 1.0) * (seconds - self.reply_time)
        if not self._learns:
            self._raise(1 / max(self.limit, 1.0))
            return
        self._quickest = min(self._quickest * _QUICKEST_FADES, seconds) if self._quickest else seconds
        if self._says_what_waits:
            return
        if self.reply_time > 4 * self._quickest:
            self._lower(0.9)
        elif self._in_use and self.reply_time < 2.5 * self._quickest:
            self._raise(1.0 if self._rises_fast else 2 / self.limit)

    def overloaded(self) -> None:
        """The server has too many."""
        self._lower(0.5)

    def said(self, running: float, waiting: float) -> None:
        """What the server itself says of its load, from all its clients: it is full when requests wait in it."""
        if not self._learns:
            return
        self._says_what_waits = True
        if waiting > 0:
            self._rises_fast = False
            ours = running * min(self.in_flight / (running + waiting), 1.0)
            self.limit = max(self.limit - waiting / 2, ours, 1.0)
        elif self._in_use:
            self._raise(self.limit if self._rises_fast else max(0.1 * self.limit, 1.0))

    def begin_again(self) -> None:
        """The server was gone: it has lost what it had read, and gets half as many."""
        self.limit = max(self.limit / 2, 1.0)

    @property
    def _in_use(self) -> bool:
        return self.in_flight >= _USED * int(self.limit)

    def _raise(self, by: float) -> None:
        self.limit = min(self.limit + by, self.most)

    def _lower(self, share: float) -> None:
        now = time.monotonic()
        if now - self._lowered >= (self.reply_time or 1.0):
            self._lowered = now
            self._rises_fast = False
            self.limit = max(min(self.limit, self.in_flight) * share, 1.0)
