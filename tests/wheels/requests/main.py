"""HTTP clients in a function without a network: their own errors, at once; what needs no network works."""

import asyncio
import time

import httpx
import requests


def tried(work):
    """Return the type of the error, and whether it came at once: no client's own patience ran out."""
    started = time.monotonic()
    try:
        work()
    except Exception as error:
        return {"error": f"{type(error).__module__}.{type(error).__name__}", "at_once": time.monotonic() - started < 10}
    return {"error": "none"}


def by_address():
    return tried(lambda: requests.get("http://192.0.2.1/", timeout=30))


def by_name():
    return tried(lambda: requests.get("https://example.com/", timeout=30))


def local():
    return tried(lambda: requests.get("http://127.0.0.1:8787/", timeout=30))


def session():
    with requests.Session() as kept:
        prepared = kept.prepare_request(requests.Request("POST", "http://example.com/a", params={"q": "ä b"}, json={"n": 1}))
    return {"url": prepared.url, "body": prepared.body.decode(), "length": prepared.headers["Content-Length"]}


def by_httpx():
    return tried(lambda: httpx.get("https://example.com/", timeout=30))


def by_httpx_async():
    async def get():
        async with httpx.AsyncClient(timeout=30) as client:
            await client.get("https://example.com/")

    return tried(lambda: asyncio.run(get()))


def transport():
    """Answer httpx's request without a network."""
    answer = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, json={"path": request.url.path}))).get("http://a/b")
    return answer.json()


def handler(event, context):
    return globals()[event["case"]]()
