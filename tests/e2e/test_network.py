"""Functions that reach the network: real clients as they are, with TLS end to end, and everything that is not listed refused at once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.object_store import object_store
from tests.e2e import outside
from tests.e2e.house import House, started

pytestmark = pytest.mark.timeout(240)
_BUILD_S = 200.0
_RANGE = "@127.0.0.0/8"
_HOSTS = """\
127.0.0.1 api.test db.test redis.test objects a.wild.test open.test elsewhere.test
169.254.169.254 meta.test
10.0.0.5 inner.test
::1 six.test
"""
_REQUIREMENTS = ["requests", "httpx", "aiohttp", "boto3", "psycopg[binary]", "redis", "websockets"]
_CLIENTS = '''
"""Each client as its own documentation shows it; nothing here knows of pyfaas."""
import asyncio, json, os, ssl, subprocess

CA = os.path.join(os.path.dirname(__file__), "ca.pem")


def with_requests(at):
    import requests

    with requests.Session() as session:
        session.verify = CA
        first = session.get(at["https"] + "/hello", headers={"X-Name": "requests"}, timeout=20)
        big = session.post(at["https"] + "/echo", data=b"x" * 3_000_000, timeout=20)
        return [first.json()["hello"], len(big.content)]


def with_httpx(at):
    import httpx

    with httpx.Client(verify=ssl.create_default_context(cafile=CA)) as client:
        return client.get(at["https"] + "/hello", headers={"X-Name": "httpx"}, timeout=20).json()["hello"]


def with_aiohttp(at):
    import aiohttp

    async def ask():
        context = ssl.create_default_context(cafile=CA)
        async with aiohttp.ClientSession() as session:
            found = await asyncio.gather(*(one(session, context, n) for n in range(8)))
            return found[7]

    async def one(session, context, number):
        async with session.get(at["https"] + "/hello", headers={"X-Name": f"aiohttp {number}"}, ssl=context) as answer:
            return (await answer.json())["hello"]

    return asyncio.run(ask())


def with_boto3(at):
    import boto3
    from botocore.config import Config

    keys = {"aws_access_key_id": "test-key", "aws_secret_access_key": "test-secret", "region_name": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=at["s3"], config=Config(s3={"addressing_style": "path"}), **keys)
    s3.put_object(Bucket=at["bucket"], Key="from/a/function", Body=b"kept")
    return s3.get_object(Bucket=at["bucket"], Key="from/a/function")["Body"].read().decode()


def with_psycopg(at):
    import psycopg

    with psycopg.connect(at["postgres"] + " sslmode=verify-full sslrootcert=" + CA, autocommit=True) as connection:
        return connection.execute("select 1").fetchone()[0]


def with_redis(at):
    import redis

    with redis.Redis(host=at["redis"][0], port=at["redis"][1], socket_timeout=20, decode_responses=True) as client:
        client.set("key", "value")
        return client.get("key")


def with_websockets(at):
    from websockets.sync.client import connect

    with connect(at["wss"] + "/talk", ssl=ssl.create_default_context(cafile=CA)) as talk:
        talk.send("a word")
        return talk.recv(timeout=20)


def with_curl(at):
    done = subprocess.run(
        ["curl", "-sS", "--max-time", "20", "--cacert", CA, "-H", "X-Name: curl", at["https"] + "/hello"], capture_output=True, text=True
    )
    return json.loads(done.stdout)["hello"] if done.returncode == 0 else done.stderr


def with_urllib(at):
    import urllib.request

    with urllib.request.urlopen(at["https"] + "/hello", context=ssl.create_default_context(cafile=CA), timeout=20) as answer:
        return json.load(answer)["host"]


def handler(event, context):
    return globals()["with_" + event["client"]](event["at"])
'''
_PROBE = '''
import json, socket, subprocess, time, urllib.request

def tcp(host, port):
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(b"GET /hello HTTP/1.0\\r\\n\\r\\n")
        return connection.recv(12).decode() or "closed"

def six(host, port):
    with socket.socket(socket.AF_INET6) as connection:
        connection.settimeout(20)
        connection.connect((host, port))
        return "connected"

def udp(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(20)
        one.connect((host, port))
        one.send(b"x")
        return one.recv(10).decode()

def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode()

def bind(host, port):
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((host, port))
        return "bound"

def handler(event, context):
    began = time.monotonic()
    try:
        found = globals()[event[0]](*event[1:])
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    return {"found": found, "seconds": time.monotonic() - began}
'''


@dataclass(slots=True)
class Town:
    """A server with a way out, and what is outside."""

    house: House
    names: outside.Names
    ca: str
    http: int
    https: int
    redis: int
    postgres: int
    s3: int
    bucket: str

    @property
    def at(self) -> dict[str, Any]:
        """Where clients find each thing."""
        return {
            "https": f"https://api.test:{self.https}",
            "wss": f"wss://api.test:{self.https}",
            "s3": f"http://objects:{self.s3}",
            "bucket": self.bucket,
            "redis": ["redis.test", self.redis],
            "postgres": f"host=db.test port={self.postgres} user=ada dbname=x connect_timeout=20",
        }

    def probe(self, name: str, *entries: str, token: str = "default") -> str:  # noqa: S107 - a name
        """Deploy a function that tries things, with a list."""
        answer = self.house.deploy(name, _PROBE, network=list(entries), token=token)
        assert answer.json.get("state") == "ready", answer.body
        return name

    def ask(self, name: str, *event: Any) -> str:
        """Let a probe try something; it must be told within seconds, well before any client's patience ends."""
        answer = self.house.invoke(name, list(event))
        assert answer.status == 200, answer.body
        assert answer.json["seconds"] < 15
        return str(answer.json["found"])

    def line(self, name: str, word: str) -> str:
        """Wait for a line of the platform's in a function's log that holds a word."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            for line in self.house.logs(name):
                if line["stream"] == "platform" and word in line["line"]:
                    return str(line["line"])
            time.sleep(0.1)
        pytest.fail(f"no line with {word!r}: {self.house.logs(name)}")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Return a server whose operator allows loopback, with everything that is reached on it."""
    place = tmp_path_factory.mktemp("town")
    (place / "hosts").write_text(_HOSTS)
    ca, context = outside.authority(place, "api.test", "db.test", "*.wild.test")
    with contextlib.ExitStack() as stack:
        objects = stack.enter_context(object_store())
        http, https = stack.enter_context(outside.web_server()), stack.enter_context(outside.web_server(context))
        redis, postgres = stack.enter_context(outside.tcp(outside.redis)), stack.enter_context(outside.tcp(outside.postgres(context)))
        names = outside.Names()
        stack.callback(names.close)
        options = ["egress_private=127.0.0.0/8", f"egress_hosts={place}/hosts", f"egress_resolver={names.address}"]
        house = stack.enter_context(started(place / "data", *(word for option in options for word in ("-s", option))))
        yield Town(house, names, ca, http, https, redis, postgres, int(objects.endpoint.rpartition(":")[2]), objects.bucket)


@pytest.fixture(scope="module")
def clients(town: Town) -> str:
    """Deploy the clients with their wheels, from the package index that the machine is set up for."""
    entries = [
        *(f"api.test:{town.https}{_RANGE}", f"objects:{town.s3}{_RANGE}", f"redis.test:{town.redis}{_RANGE}"),
        f"db.test:{town.postgres}{_RANGE}",
    ]
    files = {"main.py": _CLIENTS, "ca.pem": town.ca}
    answer = town.house.deploy("clients", files, wait=False, network=entries, requirements=_REQUIREMENTS, memory="512M", timeout="60s")
    answer = town.house.wait("clients", answer.json["version"], seconds=_BUILD_S)
    assert answer.json["state"] == "ready", answer.json["reason"]
    return "clients"


@pytest.mark.parametrize(
    ("client", "answer"),
    [
        ("requests", ["requests", 3_000_000]),
        ("httpx", "httpx"),
        ("aiohttp", "aiohttp 7"),
        ("boto3", "kept"),
        ("psycopg", "ada asked select 1"),
        ("redis", "value"),
        ("websockets", "heard a word"),
        ("curl", "curl"),
        ("urllib", "api.test"),
    ],
)
def test_clients_work_as_they_are(town: Town, clients: str, client: str, answer: Any) -> None:
    """A client that knows nothing of pyfaas reaches what the version lists, and verifies who that is."""
    found = town.house.invoke(clients, {"client": client, "at": town.at})
    assert found.status == 200, found.body
    if client == "urllib":
        answer = f"api.test:{town.https}"
    assert found.json == answer


def test_tls_is_end_to_end(town: Town, clients: str) -> None:
    """A server that is not who was asked for is refused by the client: nobody in between answers for it."""
    at = {**town.at, "https": f"https://redis.test:{town.https}"}
    version = town.house.deploy(
        "impostor", {"main.py": _CLIENTS, "ca.pem": town.ca}, network=[f"redis.test:{town.https}{_RANGE}"], memory="256M"
    )
    assert version.json["state"] == "ready"
    found = town.house.invoke("impostor", {"client": "urllib", "at": at})
    assert b"CERTIFICATE_VERIFY_FAILED" in found.body
    assert b"redis.test" in found.body


# ---- what is not listed


def test_an_unlisted_name_fails_at_once(town: Town) -> None:
    """A name that is not listed does not exist for the client, and the function's log names the entry."""
    name = town.probe("unlisted", f"api.test:{town.http}{_RANGE}")
    assert town.ask(name, "tcp", "api.test", town.http) == "HTTP/1.0 200"
    assert "gaierror: [Errno -2] Name or service not known" in town.ask(name, "tcp", "elsewhere.test", town.http)
    assert 'add "elsewhere.test:443"' in town.line(name, "elsewhere.test")


def test_unlisted_ports_and_addresses_fail_at_once(town: Town) -> None:
    """Another port of a listed name is refused, as is any other address, and so are the host's own services; the log names what is missing."""
    name = town.probe("ports", f"api.test:{town.http}{_RANGE}")
    assert town.ask(name, "tcp", "api.test", town.http) == "HTTP/1.0 200"
    assert "ConnectionRefusedError" in town.ask(name, "tcp", "api.test", town.https)
    assert f'add "api.test:{town.https}"' in town.line(name, "api.test")
    assert "ConnectionRefusedError" in town.ask(name, "tcp", "192.0.2.1", town.http)
    assert f'add "192.0.2.1:{town.http}"' in town.line(name, "192.0.2.1")
    assert "ConnectionRefusedError" in town.ask(name, "tcp", "169.254.169.254", 80)
    assert "ConnectionRefusedError" in town.ask(name, "tcp", "127.0.0.1", town.http)


def test_without_a_list_there_is_no_network(town: Town) -> None:
    """A version that lists nothing reaches nothing: neither names nor addresses."""
    name = town.probe("none")
    assert "gaierror" in town.ask(name, "tcp", "api.test", town.http)
    assert "OSError" in town.ask(name, "tcp", "127.0.0.1", town.http)


def test_a_wildcard_and_a_range(town: Town) -> None:
    """A wildcard covers what is below it, a listed literal address is reached by its number; the doors cannot be taken from inside."""
    name = town.probe("wild", f"*.wild.test:{town.http}{_RANGE}", f"127.0.0.1:{town.redis}")
    assert town.ask(name, "tcp", "a.wild.test", town.http) == "HTTP/1.0 200"
    assert "gaierror" in town.ask(name, "tcp", "wild.test", town.http)
    assert "Connection reset" in town.ask(name, "tcp", "127.0.0.1", town.http)
    assert f'add "127.0.0.1:{town.http}"' in town.line(name, "127.0.0.1")
    assert town.ask(name, "tcp", "127.0.0.1", town.redis) == "closed"  # who does not speak RESP is let go by the server outside
    assert "Address already in use" in town.ask(name, "bind", "127.0.0.1", town.redis)
    assert town.ask(name, "bind", "127.0.0.1", 8080) == "bound"


@pytest.mark.parametrize(("host", "kind"), [("open.test", "loopback"), ("meta.test", "link-local"), ("inner.test", "private"), ("six.test", "private")])
def test_names_do_not_lead_inwards(town: Town, host: str, kind: str) -> None:
    """A listed name that resolves to what is not public is reset at once; with its range in the entry, and the operator's leave, it is reached."""
    name = town.probe("inwards", f"{host}:{town.http}", f"api.test:{town.http}{_RANGE}")
    assert "Connection reset" in town.ask(name, "tcp", host, town.http)
    told = town.line(name, f"{host}:{town.http} leads to an address that is not public ({kind}")
    assert "127.0.0.1" not in told
    assert "169.254.169.254" not in told
    assert town.ask(name, "tcp", "api.test", town.http) == "HTTP/1.0 200"


def test_a_name_that_resolves_anew_is_checked_anew(town: Town) -> None:
    """A name that led where it may and now leads elsewhere is refused, whichever of its answers comes when."""
    town.names.table["flip.test"] = ["127.0.0.1"]
    name = town.probe("flip", f"flip.test:{town.http}{_RANGE}")
    assert town.ask(name, "tcp", "flip.test", town.http) == "HTTP/1.0 200"
    for address in ("169.254.169.254", "10.0.0.5", "::1", "::ffff:10.0.0.5", "0.0.0.0"):
        town.names.table["flip.test"] = [address]
        assert "Connection reset" in town.ask(name, "tcp", "flip.test", town.http), address
    town.names.table["flip.test"] = ["10.0.0.5", "127.0.0.1"]
    assert town.ask(name, "tcp", "flip.test", town.http) == "HTTP/1.0 200"


def test_a_redirect_leads_nowhere_else(town: Town) -> None:
    """A listed server that redirects to loopback or to the metadata address gets the client no further; to itself it does."""
    here = f"http://api.test:{town.http}"
    name = town.probe("redirect", f"api.test:{town.http}{_RANGE}")
    assert "hello" in town.ask(name, "get", f"{here}/away?to={here}/hello")
    assert "Connection refused" in town.ask(name, "get", f"{here}/away?to=http://127.0.0.1:{town.http}/hello")
    assert "Connection refused" in town.ask(name, "get", f"{here}/away?to=http://169.254.169.254/latest/meta-data/")
    assert "Name or service not known" in town.ask(name, "get", f"{here}/away?to=http://open.test:{town.http}/hello")


def test_ipv6_and_udp_are_refused_at_once(town: Town) -> None:
    """There is no IPv6 inside and no UDP but to ask for names; clients hear it at once."""
    name = town.probe("other", f"api.test:{town.http}{_RANGE}")
    assert town.ask(name, "tcp", "api.test", town.http) == "HTTP/1.0 200"
    assert "OSError" in town.ask(name, "six", "::1", town.http)
    assert "Error" in town.ask(name, "udp", "api.test", town.http)
    assert "Network is unreachable" in town.ask(name, "udp", "192.0.2.1", 53)


# ---- what is refused before it is kept


@pytest.mark.parametrize(
    ("entry", "status", "words"),
    [
        ("10.0.0.0/8:443", 403, ("10.0.0.0/8", "egress_private")),
        ("169.254.169.254:80", 403, ("169.254.169.254", "metadata", "egress_private")),
        ("db.test:5432@192.168.0.0/16", 403, ("192.168.0.0/16", "egress_private")),
        ("0.0.0.0/0:443", 403, ("10.0.0.0/8", "egress_private")),
        ("[::1]:443", 400, ("network[0]", "IPv6")),
        ("https://api.test", 400, ("network[0]",)),
        ("api.test", 400, ("network[0]", "port")),
    ],
)
def test_lists_that_are_refused(town: Town, entry: str, status: int, words: tuple[str, ...]) -> None:
    """A private range without the operator is 403, naming range and option; what is no entry is 400; nothing is kept."""
    answer = town.house.deploy("refused", _PROBE, network=[entry])
    assert answer.status == status, answer.body
    assert all(word in answer.json["detail"] + answer.json["hint"] for word in words), answer.json
    assert town.house.call("GET", "/v1/functions/refused").status == 404
    assert town.house.deploy("taken", _PROBE, network=[f"127.0.0.1:{town.http}"]).json["state"] == "ready"


def test_an_account_without_network(town: Town) -> None:
    """An account that was made without network may not list any; without a list it publishes as everybody does."""
    made = town.house.call("POST", "/v1/accounts", '{"name": "inside", "network": false}', token="admin", content_type="application/json")
    town.house.tokens["inside"] = made.json["token"]
    answer = town.house.deploy("f", _PROBE, token="inside", network=["api.test:443"])
    assert (answer.status, answer.json["code"]) == (403, "not_allowed")
    assert town.house.deploy("f", _PROBE, token="inside").json["state"] == "ready"


def test_an_import_reaches_what_the_version_lists(town: Town) -> None:
    """Code that asks for something when it is imported can be published."""
    source = f'import urllib.request\nFOUND = urllib.request.urlopen("http://api.test:{town.http}/hello").status\ndef handler(e, c): return FOUND\n'
    assert town.house.deploy("early", source, network=[f"api.test:{town.http}{_RANGE}"]).json["state"] == "ready"
    assert town.house.invoke("early").json == 200
    assert town.house.deploy("early-without", source).json["state"] == "failed"


# ---- processes


def test_a_killed_egress_is_followed_by_another(town: Town) -> None:
    """A call in a VM whose way out was killed reaches the network again, through the same doors."""
    name = town.probe("killed", f"api.test:{town.http}{_RANGE}")
    assert town.ask(name, "tcp", "api.test", town.http) == "HTTP/1.0 200"
    before = town.house.children()
    os.kill(before["egress"], signal.SIGKILL)
    until = time.monotonic() + 60
    while (found := town.ask(name, "tcp", "api.test", town.http)) != "HTTP/1.0 200":
        assert time.monotonic() < until, found
    assert town.house.children()["server"] == before["server"]


def test_many_vms_have_doors_of_their_own(town: Town) -> None:
    """Calls at once in several VMs and threads all get through, and none hears another's answer."""
    name = town.probe("many", f"api.test:{town.http}{_RANGE}")
    found: list[str] = []

    def ask() -> None:
        found.extend(town.ask(name, "tcp", "api.test", town.http) for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["HTTP/1.0 200"] * 30


def test_the_host_can_reach_what_functions_may_not(town: Town) -> None:
    """The control of all denials above: from this machine every one of these ports answers."""
    for port in (town.http, town.https, town.redis, town.postgres, town.s3):
        with socket.create_connection(("127.0.0.1", port), timeout=20):
            pass


def test_an_upgrade_keeps_the_way_out(town: Town) -> None:
    """After an upgrade functions reach the network through the new server's egress, and the old one is gone."""
    name = town.probe("upgraded", f"api.test:{town.http}{_RANGE}")
    before = town.house.children()
    town.house.process.send_signal(signal.SIGHUP)
    until = time.monotonic() + 90
    while (now := town.house.children()).get("server") == before["server"] or before["egress"] in now.values() or len(now) != 3:
        assert time.monotonic() < until, (before, now)
        assert town.ask(name, "tcp", "api.test", town.http) == "HTTP/1.0 200"
    assert town.ask(name, "tcp", "api.test", town.http) == "HTTP/1.0 200"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to see which files a confined process has open")
def test_doors_end_with_their_vms(tmp_path: Path) -> None:
    """When the launcher is gone, and with it all VMs, neither server nor egress holds any socket of theirs: their networks end."""
    with started(tmp_path / "data") as house:
        before = {name: _sockets(pid) for name, pid in house.children().items()}
        for number in range(3):
            assert house.deploy(f"f{number}", "def handler(e, c): return e", network=[f"x{number}.test:443"]).json["state"] == "ready"
            assert house.invoke(f"f{number}", number).json == number
        held = {name: _sockets(pid) for name, pid in house.children().items()}
        assert held["egress"] >= before["egress"] + 3 * 4
        os.kill(house.children()["launcher"], signal.SIGKILL)
        until = time.monotonic() + 60
        while any(_sockets(house.children()[name]) > before[name] + 2 for name in ("egress", "server")):
            assert time.monotonic() < until, (before, held)
            time.sleep(0.05)
        assert house.invoke("f0", "again").json == "again"


def _sockets(pid: int) -> int:
    """Count the sockets of IP and packets that a process has open, whichever network they are of."""
    found = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
    return found


def test_nothing_is_left(tmp_path: Path) -> None:
    """A killed server, launcher or keeper takes the egress along, or has it followed by one for its successor; a stop leaves none."""
    with started(tmp_path / "data") as house:
        first = house.children()["egress"]
        os.kill(house.children()["server"], signal.SIGKILL)
        assert _is_gone(first)
        until = time.monotonic() + 60
        while "egress" not in house.children() or house.children()["egress"] == first:
            assert time.monotonic() < until
        second = house.children()["egress"]
        house.process.kill()
        house.process.wait()
        assert _is_gone(second)


def _is_gone(pid: int) -> bool:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False
