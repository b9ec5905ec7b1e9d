"""Files in a store, by fsspec: `s3://bucket/key`, `hf://datasets/owner/name/file`, `gs://…`, `az://…`."""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from backends.errors import UsageError
from backends.printable import one_line

SCHEMES = ("s3", "hf", "gs", "az", "abfs")
_HASHES = ("ETag", "etag", "blob_id", "md5Hash")
"""What a store calls its own hash of a file."""
_BLOCK, _READ = 1 << 23, 1 << 20
"""Bytes of a file that are asked for, and read, at once."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as its store lists it."""

    place: str
    size: int
    hash: str | None

    @property
    def name(self) -> str:
        """The last part of its place."""
        return self.place.rpartition("/")[2]

    def __str__(self) -> str:
        return self.place

    @contextmanager
    def open(self, mode: str = "rb") -> Iterator[BinaryIO]:
        """Its bytes, a block at a time. Raises UsageError when they do not come."""
        with told(self.place):
            files, path = _store_of(self.place)
            opened = io.BufferedReader(files.open(path, mode, block_size=_BLOCK), _READ)
        with opened:
            yield opened


def place(text: str | Path) -> Path | str:
    """What a flag names: a path, or a place in a store. Raises UsageError for an address that is none of these."""
    scheme, found, rest = str(text).partition("://")
    if not found or not scheme.isalnum():
        return Path(text)
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise UsageError(f"{scheme}://…: of stores only {known} are known: fetch it first")
    host = rest.partition("/")[0]
    if not host or {"@", ":"} & {*host} or any(part in rest for part in ("//", "?", "::")):
        raise UsageError(
            f"{scheme}://…: give {scheme}://NAME/PATH; keys come from the environment, not from the address"
        )
    return str(text)


def folder_at(address: str) -> tuple[list[RemoteFile], bool]:
    """The files at a place, by name, and whether it is a folder. Raises UsageError when it cannot be looked at."""
    with told(address):
        files, path = _store_of(address)
        files.invalidate_cache()
        about = files.info(path)
        is_folder = about["type"] == "directory"
        listed = files.ls(path, detail=True) if is_folder else [about]
        scheme = address.partition("://")[0]
        found = []
        for one in listed:
            if one["type"] == "file":
                one = files.info(one["name"], expand_info=True) if scheme == "hf" else one
                found.append(_file_at(f"{scheme}://{one['name']}" if is_folder else address, one))
        return sorted(found, key=lambda file: file.name), is_folder


def _file_at(address: str, about: Mapping[str, Any]) -> RemoteFile:
    own = next((str(about[name]) for name in _HASHES if about.get(name)), None)
    return RemoteFile(address, int(about["size"]), own)


def _store_of(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    try:
        import fsspec

        files, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise UsageError(f"{address}: stores are an extra: pip install 'trajgraph[stores]' ({error})") from error
    return files, str(path)


@contextmanager
def told(address: str) -> Iterator[None]:
    """What a store's client raises, as a UsageError with the address."""
    try:
        yield
    except UsageError:
        raise
    except FileNotFoundError as error:
        raise UsageError(f"{address}: there is nothing") from error
    except Exception as error:
        said = one_line(" ".join(str(error).split()))[:300]
        raise UsageError(f"{address}: {type(error).__name__}: {said}") from error


def listed(address: str) -> list[RemoteFile]:
    """The files of a folder in a store; none where there is no such folder yet."""
    try:
        return folder_at(address)[0]
    except UsageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise


def put(path: Path, address: str) -> RemoteFile:
    """Copy a file to a store, whole or not at all; returns what is there now. Raises UsageError."""
    with told(address):
        files, where = _store_of(address)
        files.put_file(str(path), where)
        files.invalidate_cache()
        return _file_at(address, files.info(where))


def check_writable_store(address: str) -> None:
    """Write to a folder in a store, and take it back. Raises UsageError."""
    with told(address):
        files, where = _store_of(f"{address}/.writable")
        files.pipe_file(where, b"trajgraph")
    remove(f"{address}/.writable")


def get(address: str, path: Path) -> None:
    """Copy a file from a store, whole or not at all. Raises UsageError."""
    with told(address):
        files, where = _store_of(address)
        new = path.with_name(f".{path.name}.new")
        files.get_file(where, str(new))
        with new.open("rb") as got:
            os.fsync(got.fileno())
        new.replace(path)


def content_of(file: RemoteFile) -> bytes:
    """All that a small file holds. Raises UsageError."""
    with told(file.place), file.open() as opened:
        return opened.read()


def remove(address: str) -> None:
    """Remove a file from a store; one that is not there stays so. Raises UsageError."""
    with told(address), suppress(FileNotFoundError):
        files, where = _store_of(address)
        files.rm_file(where)
