"""How a call ended, as HTTP: the same on the hot way and on aiohttp's, for every outcome and every code."""

from __future__ import annotations

import json

import pytest

from pyfaas.calls import Result
from pyfaas.contract import OUTCOME_FAULT, OUTCOME_STATUS, STATUS
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import InvocationId, Outcome
from pyfaas.web import answers, problems
from tests.web.conftest import Served, serving
from tests.web.wire import Answer, Wire, call

_ID = InvocationId("0190a000-0000-7000-8000-000000000007")
_DATA = json.dumps({"errorType": "ValueError", "errorMessage": "no", "stackTrace": []}).encode()
_MEMBERS = {"type", "title", "status", "detail", "code", "fault", "hint", "evidence"}
_RUNS_THAT_FAIL = [o for o in Outcome if o not in (Outcome.OK, Outcome.REJECTED)]


@pytest.mark.parametrize("outcome", _RUNS_THAT_FAIL)
def test_a_run_that_failed(outcome: Outcome) -> None:
    """Every outcome has its status and a problem with its evidence; what the function raised is data."""
    is_data = outcome in (Outcome.ERROR, Outcome.INIT_ERROR)
    given = {"kind": "error", "body": _DATA} if is_data else {}
    result = Result(id=_ID, outcome=outcome, message="why", hint="what now", evidence={"signal": 9}, **given)  # type: ignore[arg-type]
    status, kind, body, _ = answers.plain(result)
    assert status == OUTCOME_STATUS[outcome]
    if is_data:
        assert (kind, body) == ("application/json", _DATA)
        return
    problem = json.loads(body)
    assert kind == "application/problem+json"
    assert set(problem) == {*_MEMBERS, "invocationId"}
    assert (problem["code"], problem["status"], problem["fault"]) == (outcome.value, status, OUTCOME_FAULT[outcome].value)
    assert (problem["detail"], problem["hint"], problem["evidence"], problem["invocationId"]) == ("why", "what now", {"signal": 9}, _ID)


@pytest.mark.parametrize(("kind", "shown"), [("json", "application/json"), ("bytes", "application/octet-stream")])
def test_a_run_that_ended_well(kind: str, shown: str) -> None:
    """A good result is its bytes, untouched."""
    assert answers.plain(Result(id=_ID, outcome=Outcome.OK, kind=kind, body=b"1")) == (200, shown, b"1", {})


@pytest.mark.parametrize("code", Code)
def test_a_rejected_call(code: Code) -> None:
    """A call that never ran has the status of its code, and says when to come back if that helps."""
    status, kind, body, further = answers.plain(Result(id=_ID, outcome=Outcome.REJECTED, code=code, message="no", retry_after=2.6))
    problem = json.loads(body)
    assert (status, kind, problem["code"], problem["status"]) == (STATUS[code], "application/problem+json", code.value, STATUS[code])
    assert problem["fault"] == code.fault.value
    assert further == ({"Retry-After": "3"} if status in (429, 503) else {})


@pytest.mark.parametrize("code", Code)
def test_an_error_of_each_code(code: Code) -> None:
    """An error is a problem document with its code's status, and the headers that the status asks for."""
    response = problems.response(PyfaasError(code, "no", hint="do", evidence={"limit": "x"}, retry_after=0.2))
    assert isinstance(response.body, bytes)
    problem = json.loads(response.body)
    assert set(problem) == _MEMBERS
    assert (response.status, problem["status"], problem["code"], problem["evidence"]) == (STATUS[code], STATUS[code], code.value, {"limit": "x"})
    assert ("WWW-Authenticate" in response.headers) is (code is Code.UNAUTHENTICATED)
    assert response.headers.get("Retry-After") == ("1" if STATUS[code] in (429, 503) else None)


@pytest.mark.parametrize("code", [Code.THROTTLED, Code.NOT_READY, Code.NO_CAPACITY])
def test_when_to_come_back(code: Code) -> None:
    """Every 429 and 503 says when to come back, even when nobody knew."""
    assert problems.response(PyfaasError(code, "no")).headers["Retry-After"] == "1"


_ENDS = [
    *(f"ends-{outcome}" for outcome in _RUNS_THAT_FAIL),
    *(f"refused-{code}" for code in Code),
    *(f"rejected-{code}" for code in Code),
    "echo",
    "at-once",
    "unknown",
    "defect",
]


async def _both_ways(served: Served, path: bytes = b"/v1/functions/echo/invoke", token: bytes = b"Bearer pf_all") -> tuple[Answer, Answer]:
    """Make a call the hot way, and once more so that aiohttp takes it: an unusual header that changes nothing."""
    wire = await Wire.to(served.port)
    made = [call(b"1", extra, path=path).replace(b"Bearer pf_all", token) for extra in (b"", b"Pyfaas-On-Disconnect: finish\r\n")]
    hot = await _asked(wire, served, made[0])
    assert not served.site.shared.lent or not served.service.calls, "aiohttp had a call that is hot"
    slow = await _asked(wire, served, made[1])
    assert served.site.shared.lent, "the front had a call that is not hot"
    return hot, slow


async def _asked(wire: Wire, served: Served, request: bytes) -> Answer:
    served.service.calls.clear()  # ids begin anew
    await wire.send(request)
    return await wire.answer()


@pytest.mark.parametrize("name", _ENDS)
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
async def test_both_ways_say_the_same(name: str, debug: bool) -> None:
    """Status, headers and body of the hot way are those of aiohttp's way, whatever the end."""
    async with serving(debug=debug) as served:
        hot, slow = await _both_ways(served, b"/v1/functions/%b/invoke" % name.encode())
        assert hot.status == slow.status
        assert {k: v for k, v in hot.headers.items() if k != "date"} == {k: v for k, v in slow.headers.items() if k != "date"}
        assert hot.body == slow.body


@pytest.mark.parametrize(("token", "status"), [(b"Bearer pf_wrong", 401), (b"pf_all", 401), (b"", 401), (b"Bearer pf_read", 403)], ids=repr)
async def test_both_ways_refuse_the_same(token: bytes, status: int) -> None:
    """A token that does not do is refused in the same words on both ways, and nothing runs."""
    async with serving() as served:
        hot, slow = await _both_ways(served, token=token)
        assert (hot.status, slow.status) == (status, status)
        assert hot.body == slow.body
        assert {k: v for k, v in hot.headers.items() if k != "date"} == {k: v for k, v in slow.headers.items() if k != "date"}
        assert served.events == []
