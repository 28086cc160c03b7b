"""One place in S3-compatible object storage, over `obstore`: every request of ours, and what its failures mean.

`obstore` binds the Rust crate that Arrow's and pola.rs' readers use: asynchronous without threads of ours, a stream that
gives way when it is not read, wheels for every Python that we take, no dependency. `boto3` would need a thread for each
transfer, `aiobotocore` pins aiohttp and botocore.

Theory of operation. The library is told to try nothing again; `_patiently` does, for what may pass: a store that is not
there, resets, times out, answers 5xx, or refuses the keys (an operator may mend that, but not within seconds: so once). Reads
end when nothing comes for `silent_s`; a write has no such sign, so it has a time by its size. The store checks an upload by
its SHA-256, which goes along; the same sum is kept beside the object, for whoever downloads it. Users are told what that means
for them, the operator gets the cause in the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from pyfaas.errors import Code, PyfaasError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

log = logging.getLogger(__name__)
T = TypeVar("T")
SUM = "sha256"  # of the object's bytes, in its metadata
_PIECE = 1 << 18
_PAGE = 1000  # objects a request, as S3 has it
_REFUSALS = (PermissionDeniedError, UnauthenticatedError)
_LASTING = (*_REFUSALS, FileNotFoundError)  # the latter: of the bucket
_FAILURES = (BaseError, FileNotFoundError, TimeoutError)  # all that the library raises for a request
_SHOWN = 300
_NO_BUCKET = "NoSuchBucket"
_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for the store, in seconds, and how often to ask again; each wait before that is twice the last."""

    attempts: int = 3
    back_off_s: float = 0.3
    connect_s: float = 5.0
    silent_s: float = 15.0
    write_s: float = 30.0
    slowest: int = 64 << 10  # bytes a second that an upload must reach


class Missing(Exception):
    """There is no such object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """An object on its way: its size, the SHA-256 that was kept beside it ("" when it was lost), and its bytes."""

    size: int
    sum: str
    pieces: AsyncIterator[bytes]


class Bucket:
    """Objects by name under one prefix."""

    def __init__(self, place: Mapping[str, str], patience: Patience | None = None) -> None:
        """Connect to nothing yet; `place` is what `places.find` returned. Raises invalid_request."""
        self.patience = patience or Patience()
        try:
            self._reads = _store(place, self.patience, silent_s=self.patience.silent_s)
            self._writes = _store(place, self.patience)
        except (BaseError, ValueError, TypeError) as error:
            raise PyfaasError(Code.INVALID_REQUEST, f"the object store cannot be used: {_line(error)}") from error

    async def put(self, name: str, content: bytes) -> None:
        """Keep an object; it is there, whole, when this returns, and else not at all. Raises not_ready."""
        most = self.patience.write_s + len(content) / self.patience.slowest
        attributes = {SUM: hashlib.sha256(content).hexdigest()}

        async def put() -> None:
            async with asyncio.timeout(most):
                # In one request: the parts of an upload that was broken off would stay, unseen, and cost.
                await obstore.put_async(self._writes, name, content, attributes=attributes, use_multipart=False)

        await self._patiently("kept", put)

    async def has(self, name: str) -> bool:
        """Whether there is such an object. Raises not_ready."""
        try:
            await self._patiently("asked for", lambda: obstore.head_async(self._reads, name))
        except Missing:
            return False
        return True

    async def download(self, name: str) -> Download:
        """Begin to download an object, without patience. Raises Missing, or not_ready; likewise while its pieces are read."""
        found = await self._patiently("downloaded", lambda: obstore.get_async(self._reads, name), attempts=1)
        kept = found.attributes.get(SUM, "")
        return Download(size=int(found.meta["size"]), sum=str(kept), pieces=self._pieces(found))

    async def names(self) -> list[str]:
        """Return the names of all objects, page by page. Raises not_ready."""

        async def names() -> list[str]:
            pages = obstore.list(self._reads, chunk_size=_PAGE)
            return [str(one["path"]) async for page in pages for one in page]

        return await self._patiently("listed", names)

    async def remove(self, name: str) -> None:
        """Remove an object; one that is not there is removed already. Raises not_ready."""
        try:
            await self._patiently("removed", lambda: obstore.delete_async(self._reads, name))
        except Missing:
            return

    async def _pieces(self, found: Any) -> AsyncIterator[bytes]:
        try:
            async for piece in found.stream(min_chunk_size=_PIECE):
                yield bytes(piece)
        except _FAILURES as error:
            raise _failed("downloaded", error) from error

    async def _patiently(self, what: str, ask: Callable[[], Awaitable[T]], attempts: int = 0) -> T:
        """Ask, and ask again after what may pass; `attempts` is 0 for as often as patience has it."""
        left = attempts or self.patience.attempts
        while True:
            left -= 1
            try:
                return await ask()
            except _FAILURES as error:
                if isinstance(error, FileNotFoundError) and _NO_BUCKET not in str(error):
                    raise Missing from error
                if not left or isinstance(error, _LASTING):
                    raise _failed(what, error) from error
            await asyncio.sleep(self.patience.back_off_s * 2 ** (self.patience.attempts - left - 1))


def _store(place: Mapping[str, str], patience: Patience, silent_s: float = 0.0) -> S3Store:
    """Return the library's store; `silent_s` is how long nothing may come, 0 for as long as it takes."""
    client: ClientConfig = {"connect_timeout": f"{patience.connect_s * 1000:.0f}ms", "timeout": "1day"}
    if silent_s:
        client["read_timeout"] = f"{silent_s * 1000:.0f}ms"
    if place["endpoint"].startswith("http://"):
        client["allow_http"] = True
    if root := place.get("root_certificate"):
        client["root_certificate"] = root
    config: S3Config = {"region": place["region"], "checksum_algorithm": "SHA256"}
    if place["endpoint"]:
        config["endpoint"] = place["endpoint"]  # then the bucket is in the path, as stores of one's own have it
    for key in ("access_key_id", "secret_access_key", "session_token"):
        if key in place:
            config[key] = place[key]
    return S3Store(place["bucket"], prefix=place["prefix"] or None, config=config, client_options=client, retry_config={"max_retries": 0})


def _failed(what: str, error: Exception) -> PyfaasError:
    """Log the cause, and return what a user is told; `retry_after` where it may pass soon."""
    log.warning("object_store_failed", extra={"what": what, "error": _line(error)})
    evidence = {"bundle": "unreachable"}
    if isinstance(error, _LASTING):
        fault = "refuses the server" if isinstance(error, _REFUSALS) else "has lost its bucket"
        hint = "tell the operator: the server's log has the cause; what is deployed goes on"
        return PyfaasError(Code.NOT_READY, f"the object store that keeps code {fault}", hint=hint, evidence=evidence)
    message, hint = "the object store that keeps code cannot be reached", "try again later; what is deployed goes on"
    return PyfaasError(Code.NOT_READY, message, hint=hint, evidence=evidence, retry_after=_AGAIN_S)


def _line(error: Exception) -> str:
    """Return the first line of what the library says: the rest is its inside."""
    return (str(error).splitlines() or [type(error).__name__])[0][:_SHOWN] or type(error).__name__
