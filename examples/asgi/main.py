"""A small ASGI application; it answers under the function's own URL, /f/ACCOUNT/asgi/."""

import json
from urllib.parse import parse_qs


async def app(scope, receive, send):
    """Route by path: `/` says where it runs, `/echo` returns the body in upper case."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
    if path == "/":
        query = {key: values[-1] for key, values in parse_qs(scope["query_string"].decode()).items()}
        await answer(send, 200, {"path": scope["path"], "root_path": scope.get("root_path", ""), "query": query})
    elif path == "/echo" and scope["method"] == "POST":
        await answer(send, 200, {"echo": (await body(receive)).decode().upper()})
    else:
        await answer(send, 404, {"error": f"nothing at {path}"})


async def lifespan(receive, send):
    """Take part in start-up and shutdown, when the server asks."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def body(receive):
    """Read the whole body."""
    content = b""
    while True:
        message = await receive()
        content += message.get("body", b"")
        if not message.get("more_body"):
            return content


async def answer(send, status, document):
    """Send a JSON document."""
    content = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
