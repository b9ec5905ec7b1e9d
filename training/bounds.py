"""A bound on what a program of others may take of this process, as a chat template is one."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SECONDS, _MEMORY = 10, 1 << 30
_IN_USE = Path("/proc/self/statm")


@contextmanager
def bounded() -> Iterator[None]:
    """Within this, so many seconds, and so much memory more than there is in use. Raises TimeoutError, MemoryError."""

    def out_of_time(*_: object) -> None:
        raise TimeoutError(f"it takes longer than {_SECONDS} s for one row")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(_IN_USE.read_text().split()[0]) * resource.getpagesize() if _IN_USE.exists() else 0
    before = signal.signal(signal.SIGALRM, out_of_time)
    try:
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        if in_use:
            most = in_use + _MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        yield
    except MemoryError as error:
        raise MemoryError(f"it wants more than {_MEMORY >> 20} MB for one row") from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
