"""Object stores, and objects that say themselves whether they are whole.

An object is a preamble (magic, lengths, SHA-256), a JSON header, and safetensors files one after
the other. Nothing is ever unpickled; whatever is cut short or altered is refused with its key.
"""

import hashlib
import io
import json
import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from shoal import plain, wire
from shoal.errors import ConfigError, MissingExtra, ModelError, ShoalError, nearest
from shoal.plain import Store

MAGIC = b"shoal/1\n"
_PREAMBLE = struct.Struct("<8sQQ32s")  # magic, bytes of header and of body, SHA-256 of both
PART = 16 << 20  # bytes that are asked for at once
MULTIPART = 64 << 20  # bytes above which S3 objects are uploaded in parts


class ObjectError(ShoalError):
    """An object is missing, cut short, altered, or cannot be reached.

    Attributes:
        key: of the object.
        problem: what is wrong with it.
        expected: bytes that it should have; None where that is not known.
        found: bytes that it has; None if it is not there.
    """

    def __init__(
        self, key: str, problem: str, expected: int | None = None, found: int | None = None
    ) -> None:
        super().__init__(key, problem, expected, found)
        self.key, self.problem, self.expected, self.found = key, problem, expected, found

    def __str__(self) -> str:
        sizes = ""
        if self.found is not None:
            whole = "an unknown number" if self.expected is None else self.expected
            sizes = f" ({self.found} of {whole} bytes)"
        elif self.expected is not None:
            sizes = f" ({self.expected} bytes)"
        return f"object {self.key!r}: {self.problem}{sizes}"


class ObjectStore(Protocol):
    """Where objects lie. A put is atomic: readers see all of an object or none of it."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing one of the same key."""

    def get(self, key: str, start: int, stop: int) -> bytes:
        """The bytes of a range; fewer if the object ends before it does.

        Raises:
            ObjectError: if there is no such object, or the store cannot be reached.
        """

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with a prefix, in no particular order."""

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there are passed over."""


@dataclass(frozen=True)
class DirectoryStore:
    """Objects as files of a directory, each written elsewhere first and then renamed.

    Attributes:
        path: of the directory; made when the first object comes.
    """

    path: str

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing one of the same key."""
        partial = Path(self.path, ".partial", secrets.token_hex(8))
        final = self._file(key)
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            _move(partial, final)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise ObjectError(key, f"cannot be written: {error.strerror}", len(data)) from error

    def get(self, key: str, start: int, stop: int) -> bytes:
        """The bytes of a range; fewer if the object ends before it does."""
        try:
            with self._file(key).open("rb") as file:
                file.seek(start)
                return file.read(stop - start)
        except FileNotFoundError as error:
            raise ObjectError(key, "is not in the store") from error
        except OSError as error:
            raise ObjectError(key, f"cannot be read: {error.strerror}") from error

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with a prefix."""
        root = Path(self.path)
        for folder, _, names in os.walk(root / prefix.rpartition("/")[0]):
            for name in names:
                key = Path(folder, name).relative_to(root).as_posix()
                if key.startswith(prefix) and not key.startswith("."):
                    yield key

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there are passed over."""
        for key in keys:
            file = self._file(key)
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise ObjectError(key, f"cannot be removed: {error.strerror}") from error
            _prune(file.parent, Path(self.path))

    def _file(self, key: str) -> Path:
        parts = key.split("/")
        if "\\" in key or any(part in ("", "..") or part.startswith(".") for part in parts):
            raise ConfigError("key", f"{key!r} is not the key of an object")
        return Path(self.path, *parts)


@dataclass(frozen=True)
class S3Store:
    """Objects in a bucket of any S3-compatible store; needs the extra `aws`.

    Attributes:
        bucket: that exists.
        prefix: of all keys, e.g. "runs/".
        endpoint_url: of another store than Amazon's, e.g. "http://localhost:9000".
        region: None for the environment's.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing one of the same key."""
        client, errors = self._client()
        try:
            if len(data) <= MULTIPART:
                client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data)
            else:
                client.upload_fileobj(io.BytesIO(data), self.bucket, self.prefix + key)
        except errors as error:
            raise ObjectError(key, f"cannot be written: {error}", len(data)) from error

    def get(self, key: str, start: int, stop: int) -> bytes:
        """The bytes of a range; fewer if the object ends before it does."""
        client, errors = self._client()
        where = f"bytes={start}-{stop - 1}"
        try:
            found = client.get_object(Bucket=self.bucket, Key=self.prefix + key, Range=where)
            data: bytes = found["Body"].read()
        except errors as error:
            code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
            if code == "InvalidRange":  # begins where the object has ended
                return b""
            missing = code in ("NoSuchKey", "404")
            problem = "is not in the store" if missing else f"cannot be read: {error}"
            raise ObjectError(key, problem) from error
        return data

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with a prefix."""
        client, errors = self._client()
        pages = client.get_paginator("list_objects_v2")
        try:
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for item in page.get("Contents", ()):
                    yield item["Key"].removeprefix(self.prefix)
        except errors as error:
            raise ObjectError(prefix, f"cannot be listed: {error}") from error

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there are passed over."""
        client, errors = self._client()
        for begin in range(0, len(keys), 1000):  # as many as one request takes
            names = [{"Key": self.prefix + key} for key in keys[begin : begin + 1000]]
            try:
                client.delete_objects(Bucket=self.bucket, Delete={"Objects": names, "Quiet": True})
            except errors as error:
                raise ObjectError(keys[begin], f"cannot be removed: {error}") from error

    def _client(self) -> tuple[Any, tuple[type[Exception], ...]]:
        return aws_client("s3", self.endpoint_url, self.region)


@lru_cache(maxsize=16)
def aws_client(
    service: str, endpoint_url: str | None, region: str | None, seconds: float = 60.0
) -> tuple[Any, tuple[type[Exception], ...]]:
    """A client of a service, safe for threads, and the errors that its calls raise.

    Raises:
        MissingExtra: without boto3.
    """
    try:
        import boto3
        from boto3.exceptions import Boto3Error
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise MissingExtra("boto3", "aws") from error
    config = Config(
        retries={"mode": "standard", "max_attempts": 5}, max_pool_connections=64,
        read_timeout=seconds, request_checksum_calculation="when_required",
    )  # fmt: skip
    session = boto3.session.Session()
    client = session.client(service, endpoint_url=endpoint_url, region_name=region, config=config)
    return client, (BotoCoreError, ClientError, Boto3Error)


STORES: dict[str, type[DirectoryStore] | type[S3Store]] = {
    "directory": DirectoryStore,
    "s3": S3Store,
}


def _move(partial: Path, final: Path) -> None:
    """Rename a file into a directory that may be removed, because it is empty, at any time."""
    for left in reversed(range(100)):
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial, final)
        except (FileNotFoundError, FileExistsError):  # it was there, and then it was not
            if not left:
                raise
        else:
            return


def _prune(folder: Path, root: Path) -> None:
    """Remove directories that have become empty, from the innermost out."""
    while folder != root:
        try:
            folder.rmdir()
        except OSError:  # there is something in it, or it is gone
            return
        folder = folder.parent


def describe(store: ObjectStore) -> dict[str, Any]:
    """A store as plain data, for an event.

    Raises:
        ConfigError: for a store that is not in `STORES`.
    """
    for kind, cls in STORES.items():
        if type(store) is cls:
            return {"kind": kind, **plain.encode(store)}
    raise ConfigError("store", f"functions open {', '.join(STORES)}, not {type(store).__name__}")


def open_store(data: Any) -> ObjectStore:
    """The store that plain data describes.

    Raises:
        ConfigError: naming the key at fault.
    """
    if not isinstance(data, dict):
        raise ConfigError("store", f"expected a table, got {type(data).__name__}")
    kind = str(data.get("kind"))
    if kind not in STORES:
        raise ConfigError("store.kind", f"no kind {kind!r}; {nearest(kind, STORES)}")
    fields = {name: value for name, value in data.items() if name != "kind"}
    store: ObjectStore = plain.decode(STORES[kind], fields, path="store")
    return store


def save(store: ObjectStore, key: str, header: Any, tensors: Store) -> int:
    """Write an object; the same content always has the same bytes. Its size.

    Raises:
        ObjectError: if the store cannot take it.
    """
    parts = [(path, wire.dump(tensors[path])) for path in sorted(tensors)]
    index = [(path, len(data)) for path, data in parts]
    text = json.dumps({"header": header, "tensors": index}, sort_keys=True).encode()
    text += b" " * (-(len(text) + _PREAMBLE.size) % 8)  # so that arrays are aligned
    body = [piece for _, data in parts for piece in (data, bytes(-len(data) % 8))]
    digest = hashlib.sha256(text)
    for piece in body:
        digest.update(piece)
    length = sum(map(len, body))
    start = _PREAMBLE.pack(MAGIC, len(text), length, digest.digest())
    store.put(key, b"".join([start, text, *body]))
    return len(start) + len(text) + length


def load(store: ObjectStore, key: str) -> tuple[Any, Store]:
    """The header and the tensors of an object, checked before they are used.

    Raises:
        ObjectError: if it is missing, cut short or altered.
    """
    data = _read(store, key)
    _, length, _, digest = _PREAMBLE.unpack_from(data)
    view = memoryview(data)[_PREAMBLE.size :]
    if hashlib.sha256(view).digest() != digest:
        raise ObjectError(key, "is not what was written: its SHA-256 differs", len(data), len(data))
    try:
        found = json.loads(bytes(view[:length]))
        tensors, at = {}, length
        for path, size in found["tensors"]:
            tensors[path] = wire.load(view[at : at + size])[0]
            at += size + -size % 8
    except (ModelError, ValueError, KeyError, TypeError) as error:
        raise ObjectError(key, f"cannot be understood: {error}", len(data), len(data)) from error
    return found["header"], tensors


def _read(store: ObjectStore, key: str) -> bytearray | bytes:
    """All bytes of an object, asked for by range into one buffer."""
    first = store.get(key, 0, PART)
    if len(first) < _PREAMBLE.size or not first.startswith(MAGIC):
        short = len(first) < _PREAMBLE.size
        problem = "is cut short" if short else "was not written by Shoal"
        raise ObjectError(key, problem, _PREAMBLE.size if short else None, len(first))
    _, header, body, _ = _PREAMBLE.unpack_from(first)
    size = _PREAMBLE.size + header + body
    if len(first) == size:
        return first
    if len(first) < min(size, PART):
        raise ObjectError(key, "is cut short", size, len(first))
    data = bytearray(first[:PART])  # grows with what is there, not with what a preamble claims
    while len(data) < size:
        piece = store.get(key, len(data), min(len(data) + PART, size))
        if not piece:
            raise ObjectError(key, "is cut short", size, len(data))
        data += piece
    return data
