"""How far a long reading of rows is: a bar in a terminal, a line every half minute elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from batch.logs import log

_SAID = 30.0
Row = TypeVar("Row")


def shown(rows: Iterable[Row]) -> Iterator[Row]:
    """The same rows."""
    said = time.monotonic()
    for number, row in enumerate(tqdm(rows, unit=" rows", delay=2, leave=False, disable=None, file=sys.stderr), 1):
        yield row
        if time.monotonic() - said > _SAID and not sys.stderr.isatty():
            said = time.monotonic()
            log.info("%s rows so far", f"{number:,}")
