"""Failures, typed by the boundary they crossed; a bad rollout is data, not a crash.

    BackendError
    ├── ModelError
    │   ├── ModelUnreachable    no connection, or it broke           retried from the checkpoint
    │   ├── ServerOverloaded    429 (costs no attempt), 5xx          retried, after `retry_after` seconds if it says so
    │   ├── ModelTimeout        no reply in time                     retried
    │   ├── InvalidResponse     not JSON, no choices, empty, aborted retried
    │   ├── BadRequest          400, 413, 422, a redirect            not retried: the question fails
    │   │   └── Unauthorized    401, 403, 404                        ends the run (403: when all get it)
    │   └── ContextOverflow     the prompt is too long               ends the trajectory
    └── ToolError
        ├── ToolUnreachable     no connection, or it broke           retried
        ├── ToolOverloaded      429 (costs no attempt), 5xx          retried, after `retry_after` seconds if it says so
        ├── ToolTimeout         no result in time                    retried
        ├── ToolReplyInvalid    not JSON, or no tool result          retried
        ├── ToolRejected        a redirect                           not retried: the question fails
        ├── CassetteMiss        a replay has no such result          not retried: the question fails
        └── ToolFailed          the tool said no                     the model reads it

Messages name the address and the fix, never a key.
"""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


class BackendError(RuntimeError):  # a kind whose words LangGraph's own server passes on to Studio
    """Something outside this process failed; `retryable` says whether the same request may succeed later, `answered`
    that the server is there, since it replied, `busy` that it has too much to do just now.
    """

    retryable = True
    answered = False
    busy = False
    was_asked = True
    """Whether the request went anywhere: else it costs no attempt."""
    guessed = False
    """Whether it is busy by a guess: then it is not waited for without end."""
    retry_after: float | None = None


class ModelError(BackendError):
    """The model server. `turn` are the replies that came before the request that failed."""

    turn = 0


class ModelUnreachable(ModelError):
    """No connection to the model server, or it was lost before the reply was whole."""

    was_sent = True
    """Whether the server may have read the request, and died of it."""


class ServerOverloaded(ModelError):
    """The model server answered 429 or 5xx; `retry_after` holds its Retry-After in seconds."""

    def __init__(self, message: str, retry_after: float | None = None, *, busy: bool = False) -> None:
        super().__init__(message)
        self.retry_after, self.busy, self.answered = retry_after, busy, busy


class ModelTimeout(ModelError):
    """The model server did not reply in time."""


class InvalidResponse(ModelError):
    """The model server replied, but not with a reply: no JSON, no choices, nothing in it, or aborted half-way."""

    answered = True
    is_no_completion = False
    """Whether what answers is no model at all: a web page, or JSON of another kind."""


class BadRequest(ModelError):
    """The model server refused the request in a way that asking again cannot fix."""

    retryable = False


class Unauthorized(BadRequest):
    """The model server knows neither this key nor this model: no request of the run can succeed. `forbidden` (403) may
    also be what a firewall says of one prompt: it ends a run when no other is answered meanwhile.
    """

    forbidden = False


class ContextOverflow(ModelError):
    """The prompt is longer than the model's context, of `max_model_len` tokens if the server says so."""

    retryable = False

    def __init__(self, message: str, max_model_len: int | None = None) -> None:
        super().__init__(message)
        self.max_model_len = max_model_len


class ToolError(BackendError):
    """The tool server."""


class ToolUnreachable(ToolError):
    """No connection to the tool server, or it was lost before the result came."""


class ToolOverloaded(ToolError):
    """The tool server answered 429 or 5xx; `retry_after` holds its Retry-After in seconds."""

    def __init__(self, message: str, retry_after: float | None = None, *, busy: bool = False) -> None:
        super().__init__(message)
        self.retry_after, self.busy, self.answered = retry_after, busy, busy


class ToolReplyInvalid(ToolError):
    """The tool server replied, but not with a result of the call."""

    answered = True


class ToolTimeout(ToolError):
    """A tool call did not come back in time."""


class ToolRejected(ToolError):
    """The tool server sends requests elsewhere, where none is sent."""

    retryable = False


class CassetteMiss(ToolError):
    """A replayed run asked what the recorded one had not."""

    retryable = False


class ToolFailed(ToolError):
    """The tool itself refused or failed: an expected outcome that the model reads."""

    retryable = False


class UsageError(RuntimeError):
    """The command cannot go ahead as it was given; the message is one line that names the fix."""


def extra_missing(what: str, extra: str) -> UsageError:
    """A package is not installed that is part of an extra."""
    return UsageError(f"{what} needs an extra: pip install 'trajgraph[{extra}]'")


class DiskRefused(OSError):
    """A file of the run cannot be written: no question is at fault, and the run ends."""


class NothingAnswers(UsageError):
    """No server answers at an address (yet); `there` when one does, and says that it is not ready."""

    def __init__(self, message: str, *, there: bool = False) -> None:
        super().__init__(message)
        self.there = there


def seconds_to_wait(retry_after: str | None) -> float | None:
    """A Retry-After header, in seconds or as a date, within five minutes; None where there is none that can be read."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after or "") - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), 300.0) if math.isfinite(seconds) else None
