"""How far a long export is: a bar in a terminal, a line every half minute elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from batch.logs import log
from training.rows import Row

_SAID = 30.0


def shown(rows: Iterable[Row]) -> Iterator[Row]:
    """The same rows."""
    said = time.monotonic()
    for number, row in enumerate(tqdm(rows, unit=" rows", delay=2, leave=False, disable=None, file=sys.stderr), 1):
        yield row
        if time.monotonic() - said > _SAID and not sys.stderr.isatty():
            said = time.monotonic()
            log.info("%s rows so far", f"{number:,}")
