"""The bytes of the answers that the front writes itself: what does not change from call to call is a template."""

from __future__ import annotations

import http
from collections.abc import Mapping
from email.utils import formatdate
from types import MappingProxyType

from pyfaas.calls import Result
from pyfaas.errors import PyfaasError
from pyfaas.web import answers, problems

_TENTHS = [f"{i // 10}.{i % 10}".encode() for i in range(2000)]
_GOOD = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: pyfaas\r\nX-Content-Type-Options: nosniff\r\nDate: {date}\r\n"
    "Pyfaas-Requested-Version: {requested}\r\nPyfaas-Executed-Version: {executed}\r\nPyfaas-Outcome: ok\r\nPyfaas-Invocation-Id: "
)
_GOES_ON = b"%b\r\nServer-Timing: queue;dur=%b, exec;dur=%b\r\nContent-Length: %d\r\n\r\n%b"


class Replies:
    """Makes answers; `renew` is called each second, for their date."""

    def __init__(self, *, debug: bool) -> None:
        """With `debug`, answers tell where a call ran."""
        self._debug = debug
        self._templates: dict[tuple[int | None, int | None], bytes] = {}
        self._date = ""
        self.renew()

    def renew(self) -> None:
        """Take the date of this second."""
        self._date = formatdate(usegmt=True)
        self._templates.clear()

    def result(self, result: Result) -> bytes:
        """Return the answer of a call that ended."""
        if result.kind != "json" or result.init_s or self._debug:
            status, kind, body, further = answers.plain(result)
            return self._whole(status, kind, body, {**answers.headers_of(result, debug=self._debug), **further})
        key = (result.requested, result.executed)
        template = self._templates.get(key) or self._template(key)
        body = result.body
        return template % (result.id.encode(), _tenths(result.queue_s), _tenths(result.exec_s), len(body), body)

    def problem(self, error: PyfaasError, further: Mapping[str, str] = MappingProxyType({})) -> bytes:
        """Return the answer to a call that was refused."""
        status, body, headers = problems.answer(error)
        return self._whole(status, problems.CONTENT_TYPE, body, {**headers, **further})

    def _template(self, key: tuple[int | None, int | None]) -> bytes:
        made = _GOOD.format(date=self._date, requested=key[0], executed=key[1]).encode() + _GOES_ON
        self._templates[key] = made
        return made

    def _whole(self, status: int, kind: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}", f"Content-Type: {kind}", "Server: pyfaas"]
        lines += ["X-Content-Type-Options: nosniff", f"Date: {self._date}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def _tenths(seconds: float) -> bytes:
    """Format a duration in milliseconds with one digit."""
    index = int(seconds * 1e4)
    return _TENTHS[index] if 0 <= index < 2000 else b"%.1f" % (seconds * 1e3)
