"""Who is working on a run: the process that holds the lock on one of its files."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO


def try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holders(lock: IO[str]) -> list[str]:
    """The ids of the other processes that have a file open and are alive; none where that cannot be known. The process
    that took the lock may be gone while its workers, which inherited it, still hold it.
    """
    about, found = os.fstat(lock.fileno()), []
    for opened in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            its = opened.stat()
            if (its.st_dev, its.st_ino) == (about.st_dev, about.st_ino) and opened.parts[2] != str(os.getpid()):
                found.append(opened.parts[2])
    return sorted(set(found), key=int)


def process_at_work(path: Path) -> str | None:
    """The id of the process that holds a run's lock; None when none does."""
    if not path.exists():
        return None
    with path.open("r+") as lock:
        if try_lock(lock):
            return None
        first, held_by = lock.read().strip(), holders(lock)
        return first if first in held_by or not held_by else ", ".join(held_by)
