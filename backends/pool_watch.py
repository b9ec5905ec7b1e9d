"""What changes while a run asks several model servers: the load that they tell, and the file that names them."""

import asyncio
import logging
from itertools import count
from pathlib import Path

from backends.endpoint import Endpoint
from backends.endpoint_list import read_endpoints
from backends.endpoints import Endpoints
from backends.errors import UsageError

log = logging.getLogger("trajgraph")
_LOOK = 1.0
"""Seconds between two looks."""
_MODELS = 10
"""Looks between two at which model is served."""
_WITHOUT = 60
"""Looks after which a server that told no load is asked for it again."""


async def watch(endpoints: Endpoints, file: Path | None) -> None:
    """Until cancelled."""
    silent: dict[Endpoint, int] = {}
    read: bytes | None = b""  # it may have changed since the servers were connected
    for look in count():
        await asyncio.sleep(_LOOK)
        if look % _MODELS == 0:
            await endpoints.check_models()
        if file and (content := await asyncio.to_thread(_content, file)) != read:
            read = content
            try:
                await endpoints.change(await asyncio.to_thread(read_endpoints, file))
            except UsageError as error:
                log.warning("%s; the earlier addresses stay", error)
        asked = [one for one in endpoints.up if silent.get(one, 0) == 0]
        for endpoint, says in zip(asked, await asyncio.gather(*map(_look, asked)), strict=True):
            silent[endpoint] = 0 if says else _WITHOUT
        silent = {one: max(left - 1, 0) for one, left in silent.items() if not one.removed}
        endpoints.changed()


async def _look(endpoint: Endpoint) -> bool:
    assert endpoint.chat
    load = await endpoint.chat.load()
    if load:
        endpoint.limit.said(*load)
    return load is not None


def _content(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path and path.is_file() else None
    except OSError:
        return None
