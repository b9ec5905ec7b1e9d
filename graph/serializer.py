"""How values of checkpoints are written: as LangGraph does, large ones compressed."""

import zlib
from typing import Any

import zstandard
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

_COMPRESSED, _COMPRESSED_EARLIER = "+zstd", "+zlib"
_WORTH_IT = 4096
"""Bytes from which a value is compressed: what tools return, which is stored as text and as a result."""


class CompressingSerializer(JsonPlusSerializer):
    """LangGraph's own, with large values compressed by zstd; what earlier versions wrote is read too."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """The type of a value, `msgpack+zstd` when it is compressed, and its bytes."""
        kind, content = super().dumps_typed(obj)
        if len(content) < _WORTH_IT:
            return kind, content
        return kind + _COMPRESSED, zstandard.compress(content, 1)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value again."""
        kind, content = data
        if kind.endswith(_COMPRESSED):
            data = kind.removesuffix(_COMPRESSED), zstandard.decompress(content)
        elif kind.endswith(_COMPRESSED_EARLIER):
            data = kind.removesuffix(_COMPRESSED_EARLIER), zlib.decompress(content)
        return super().loads_typed(data)
