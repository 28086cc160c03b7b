"""The backup, streamed: at the client's pace, and cut off rather than ended when something goes wrong on the way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from aiohttp import web

from pyfaas.errors import PyfaasError
from pyfaas.model import Caller
from pyfaas.service.service import Service
from pyfaas.web import asked

_STALLED_S = 120.0  # a client that takes nothing for so long is gone
log = logging.getLogger(__name__)


async def _write(response: web.StreamResponse, piece: bytes) -> None:
    async with asyncio.timeout(_STALLED_S):
        await response.write(piece)


async def backup(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Give everything that the server keeps as one archive."""
    response = web.StreamResponse(
        headers={"Content-Type": "application/x-tar", "Content-Disposition": 'attachment; filename="pyfaas-backup.tar"'}
    )
    async with contextlib.aclosing(service.backup.read(asked.known(caller))) as pieces:
        first = await anext(pieces)  # what cannot begin is refused with a status
        await response.prepare(request)
        try:
            await _write(response, first)
            async for piece in pieces:
                await _write(response, piece)
        except PyfaasError as error:
            log.error("backup_failed", extra={"code": error.code.value, "evidence": dict(error.evidence)})  # noqa: TRY400 - told here only
            if request.transport is not None:
                request.transport.abort()  # a chunked body that does not end is no backup
            return response
        except TimeoutError:
            log.warning("backup_stalled", extra={"seconds": _STALLED_S})
            if request.transport is not None:
                request.transport.abort()  # nobody else can have one meanwhile
            return response
        except ConnectionError:
            return response  # the client left
    await response.write_eof()
    return response
