"""Tags, failures and profiles: what the SDK decides without a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyfaas.client import errors, profile
from pyfaas.contract import STATUS
from pyfaas.errors import Code
from pyfaas.model import Outcome


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_a_class_for_whose_fault_it_is(code: Code) -> None:
    """A problem's status files it: 4xx is never a ServerError, and 5xx always is."""
    body = b'{"code": "%s", "detail": "words", "hint": "do"}' % code.encode()
    error = errors.from_answer(STATUS[code], {}, body)
    assert isinstance(error, errors.ServerError) == (STATUS[code] >= 500)
    assert (error.code, error.message, error.hint) == (code.value, "words", "do")


@pytest.mark.parametrize("outcome", [o for o in Outcome if o not in (Outcome.OK, Outcome.REJECTED)])
def test_every_failed_outcome_is_a_function_error(outcome: Outcome) -> None:
    """A run that ended badly is a FunctionError that names its outcome; a timeout is a TimeoutError too."""
    error = errors.from_answer(502, {"pyfaas-outcome": outcome.value, "pyfaas-invocation-id": "i"}, b"{}")
    assert isinstance(error, errors.FunctionError)
    assert (error.outcome, error.invocation_id) == (outcome.value, "i")
    assert isinstance(error, TimeoutError) == (outcome is Outcome.TIMEOUT)


def test_an_answer_that_is_no_document_still_has_a_sentence() -> None:
    """A proxy's page becomes a message, not a parser's error."""
    assert errors.from_answer(502, {}, b"<html>bad gateway").message == "<html>bad gateway"
    assert errors.from_answer(503, {"retry-after": "2"}, b"").message == "the server answered 503"


def test_retry_after_is_kept() -> None:
    """Whoever is throttled learns when to come again."""
    error = errors.from_answer(429, {"retry-after": "1.5"}, b'{"code": "throttled"}')
    assert isinstance(error, errors.Throttled)
    assert error.retry_after == 1.5


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own: nothing in the environment, no profile, a data directory."""
    for name in ("PYFAAS_URL", "PYFAAS_TOKEN", "PYFAAS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PYFAAS_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path


def fill(data: Path) -> None:
    """Make a data directory look served."""
    for name, text in {"endpoint": "http://127.0.0.1:1\n", "default.token": "pf_d\n", "admin.token": "pf_a\n"}.items():
        (data / name).write_text(text)


def test_the_nearest_place_wins(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments, then environment, then profile, then the data directory."""
    fill(machine / "data")
    assert (profile.locate().token, profile.locate(is_admin=True).token) == ("pf_d", "pf_a")
    path = profile.write_profile("default", "http://h:2/", 'pf_"p')
    assert path.stat().st_mode & 0o777 == 0o600
    assert (profile.locate().url, profile.locate().token) == ("http://h:2", 'pf_"p')
    monkeypatch.setenv("PYFAAS_URL", "http://h:3")
    monkeypatch.setenv("PYFAAS_TOKEN", "pf_e")
    assert profile.locate().url == "http://h:3"
    assert profile.locate("http://h:4", "pf_x").token == "pf_x"


def test_a_token_goes_only_to_its_own_server(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL without a token takes one from a profile of the same URL, never from another's."""
    fill(machine / "data")
    monkeypatch.setenv("PYFAAS_URL", "http://127.0.0.1:1/")
    assert profile.locate().token == "pf_d"
    monkeypatch.setenv("PYFAAS_URL", "http://elsewhere:1")
    with pytest.raises(errors.NotAllowed):
        profile.locate()


def test_nothing_known_says_what_to_do(machine: Path) -> None:
    """Without server, profile or data directory the error says how to get one."""
    with pytest.raises(errors.Unreachable) as caught:
        profile.locate()
    assert "pyfaas serve" in caught.value.hint
    profile.write_profile("work", "http://h:1", "pf_w")
    with pytest.raises(errors.Unreachable):
        profile.locate()


def test_a_named_profile_must_exist(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYFAAS_PROFILE is obeyed or refused, never passed over."""
    fill(machine / "data")
    monkeypatch.setenv("PYFAAS_PROFILE", "work")
    with pytest.raises(errors.InvalidRequest, match="work"):
        profile.locate()
    profile.write_profile("work", "http://h:1", "pf_w")
    assert profile.locate().token == "pf_w"


@pytest.mark.parametrize(
    "url",
    ["ftp://h:1", "h:1", "http://", "http://h:99999", "http://[::", "http://h:1/?a", "http://h h:1", "http://h:x"],
)
def test_what_is_no_url_is_refused_before_it_is_used(machine: Path, url: str) -> None:
    """A server's URL is judged here, as the caller's mistake, not as a server that cannot be reached."""
    with pytest.raises(errors.InvalidRequest, match="not a server's URL"):
        profile.locate(url, "pf_t")


def test_a_url_may_have_a_path_and_an_address(machine: Path) -> None:
    """Servers behind a prefix and on IPv6 can be named."""
    urls = [profile.locate(url, "pf_t").url for url in ("https://h/pyfaas/", "http://[::1]:8787", "http://h")]
    assert urls == ["https://h/pyfaas", "http://[::1]:8787", "http://h"]


@pytest.mark.parametrize("token", ["a\nb", "a b", "é", "\udcff"])
def test_a_token_that_cannot_be_sent_is_refused(machine: Path, token: str) -> None:
    """It would break the request's head; what surrounds it is forgiven."""
    with pytest.raises(errors.InvalidRequest, match="the token"):
        profile.locate("http://h", token)
    assert profile.locate("http://h", " pf_t\n").token == "pf_t"
