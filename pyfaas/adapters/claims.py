"""Whose a place in object storage is: that data directory's which first listed it.

What no version of a server needs is removed from its place. Two servers at one place, a backup restored beside the server that
it was taken of, would each remove what only the other needs. So a place holds an object `owner` with an identity that the data
directory holds too, outside of backups, and a server that finds another's there removes nothing unasked. An operator who lets a new
data directory take a place over removes that object.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from pathlib import Path

from pyfaas.adapters.bucket import Bucket, Missing
from pyfaas.adapters.bundles import PART, translated

log = logging.getLogger(__name__)
OWNER = "owner"  # the object's name, and the file's
_LONGEST = 200


class Claim:
    """A data directory's claim to a place."""

    def __init__(self, bucket: Bucket, directory: Path) -> None:
        """Claim nothing yet."""
        self._bucket, self._file = bucket, directory / OWNER
        self._is_told = False

    async def holds(self) -> bool:
        """Whether the place is ours; it becomes ours when it is nobody's. Raises not_ready, storage_full or internal."""
        ours = await asyncio.to_thread(self._identity)
        theirs = await self._written()
        if not theirs:
            await self._bucket.put(OWNER, ours.encode())
            theirs = await self._written()  # of two who came at once one is the last
        if theirs != ours and not self._is_told:
            self._is_told = True
            log.warning("bundles_of_another_server", extra={"consequence": "what is not needed is not removed", "object": OWNER})
        return theirs == ours

    async def _written(self) -> str:
        try:
            download = await self._bucket.download(OWNER)
        except Missing:
            return ""
        text = b"".join([piece async for piece in download.pieces])
        return text[:_LONGEST].decode("ascii", "replace") or "?"

    def _identity(self) -> str:
        with translated():
            if not self._file.exists():
                part = self._file.with_suffix(PART)
                part.write_text(secrets.token_hex(16))
                part.rename(self._file)
            return self._file.read_text()
