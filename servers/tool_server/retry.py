"""Asking a service of others again, with growing waits, after a failure that may pass."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

Answer = TypeVar("Answer")
PASSING_STATUS = (429, 500, 502, 503, 504)
_LONGEST_WAIT, _LONGEST_ASKED_FOR = 15.0, 30.0


class PassingFailure(Exception):
    """A failure that asking again may fix, after `retry_after` seconds if the service says so."""

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


async def ask_again(ask: Callable[[], Awaitable[Answer]], attempts: int, first_wait: float) -> Answer:
    """What `ask` gives. Raises its PassingFailure after so many attempts, and any other failure at once."""
    growing = wait_exponential_jitter(multiplier=first_wait, max=_LONGEST_WAIT, jitter=first_wait)

    async def once() -> Answer:
        return await ask()

    def wait(state: RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        asked_for = failure.retry_after if isinstance(failure, PassingFailure) else 0.0
        return max(growing(state), min(asked_for, _LONGEST_ASKED_FOR))

    again = retry_if_exception_type(PassingFailure)
    return await AsyncRetrying(retry=again, stop=stop_after_attempt(attempts), wait=wait, reraise=True)(once)
