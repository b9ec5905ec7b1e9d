"""What became of each sample of a run, in two bits: ten million questions take 2.5 MB."""

import base64
import zlib
from collections.abc import Iterator
from typing import Literal

from serializers.record import sample_of

Kind = Literal["accepted", "rejected", "failed"]
_KINDS: tuple[Kind | None, ...] = (None, "accepted", "rejected", "failed")
_KNOWN = bytes(sum(bool(byte >> shift & 3) for shift in (0, 2, 4, 6)) for byte in range(256))
"""How many of its four samples a byte knows."""
_GROWS = 4096
_MOST_ROWS = 1 << 33


class Finished:
    """By a question's row, from 1, and the sample's number, from 1."""

    def __init__(self) -> None:
        self._bits: dict[int, bytearray] = {}

    def get(self, row: int, number: int) -> Kind | None:
        """None where nothing is known."""
        bits = self._bits.get(number, b"")
        at = row >> 2
        return _KINDS[bits[at] >> (row & 3) * 2 & 3] if 0 <= at < len(bits) else None

    def set(self, row: int, number: int, kind: Kind | None) -> None:
        """Remember it, or forget it."""
        if not 0 <= row < _MOST_ROWS:
            raise ValueError(f"there is no row {row}")
        bits, at, shift = self._bits.setdefault(number, bytearray()), row >> 2, (row & 3) * 2
        if at >= len(bits):
            bits.extend(bytes(at + _GROWS - len(bits)))
        bits[at] = bits[at] & ~(3 << shift) | _KINDS.index(kind) << shift

    def add(self, sample_id: str, kind: Kind) -> bool:
        """Remember what a sample became; False when it was known."""
        row, number = sample_of(sample_id)
        if self.get(row, number):
            return False
        self.set(row, number, kind)
        return True

    def add_all(self, other: "Finished") -> bool:
        """Remember all that another one knows; False, and nothing is, where one of them is known."""
        found: list[tuple[int, int, int, int]] = []
        for number, bits in other._bits.items():
            start, end = len(bits) - len(bits.lstrip(b"\0")), len(bits.rstrip(b"\0"))
            theirs = int.from_bytes(bits[start:end], "little")
            ours = int.from_bytes(self._bits.get(number, bytearray())[start:end], "little")
            if _known(ours) & _known(theirs):
                return False
            found.append((number, start, end, ours | theirs))
        for number, start, end, both in found:
            bits = self._bits.setdefault(number, bytearray())
            bits.extend(bytes(max(end - len(bits), 0)))
            bits[start:end] = both.to_bytes(max(end - start, 0), "little")
        return True

    def count(self, last: int | None = None, most: int | None = None) -> int:
        """How many are known, in the rows up to the `last` and the first `most` samples of each."""
        total = 0
        for number, bits in self._bits.items():
            if most is None or number <= most:
                whole = len(bits) if last is None else (last + 1) >> 2
                total += sum(bits[:whole].translate(_KNOWN))
                if last is not None:
                    total += sum(bool(self.get(row, number)) for row in range(whole * 4, last + 1))
        return total

    def rows(self) -> Iterator[tuple[int, int]]:
        """(row, number) of each that is known."""
        for number, bits in self._bits.items():
            for at, byte in enumerate(bits):
                if byte:
                    yield from ((at * 4 + place, number) for place in range(4) if byte >> place * 2 & 3)

    def last_row(self, most: int) -> int:
        """The last row, up to the one at `most`, of which something is known; 0 when nothing is."""
        found = 0
        for number, bits in self._bits.items():
            at, rows = min(most >> 2, len(bits) - 1) + 1, list[int]()
            while at and not rows:
                rows = [row for row in range(4 * at - 4, min(4 * at, most + 1)) if self.get(row, number)]
                at = len(bits[: at - 1].rstrip(b"\0"))
            found = max([found, *rows])
        return found

    def copy(self) -> "Finished":
        """The same, to be changed apart."""
        other = Finished()
        other._bits = {number: bytearray(bits) for number, bits in self._bits.items()}
        return other

    def to_dict(self) -> dict[str, str]:
        """As JSON, packed."""
        return {
            str(number): base64.b64encode(zlib.compress(bits.rstrip(b"\0"), 1)).decode()
            for number, bits in self._bits.items()
        }

    @classmethod
    def from_dict(cls, packed: dict[str, str]) -> "Finished":
        """What `to_dict` made. Raises ValueError for anything else."""
        found = cls()
        try:
            for number, text in packed.items():
                found._bits[int(number)] = bytearray(zlib.decompress(base64.b64decode(text, validate=True)))
        except (AttributeError, TypeError, zlib.error) as error:
            raise ValueError(str(error)) from error
        return found


def _known(bits: int) -> int:
    """A bit at each sample of which something is known."""
    lows = int.from_bytes(b"\x55" * ((bits.bit_length() + 7) // 8), "little")
    return (bits | bits >> 1) & lows
