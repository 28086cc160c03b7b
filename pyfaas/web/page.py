"""What `GET /` answers: a page that says what this is and where things are, for whoever opens the server in a browser.

It is whole in itself, and its policy lets it load and run nothing. The address in it is the one that it was asked by.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from string import Template
from typing import Any

from pyfaas import __version__
from pyfaas.config import Config

_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_LINKS = {
    "openapi": "/openapi.json",
    "ready": "/readyz",
    "live": "/healthz",
    "metrics": "/metrics",
    "functions": "/v1/functions",
}


def is_wanted(accept: str) -> bool:
    """Tell whether a client asks for a page: it names HTML, and nothing of JSON before it."""
    kinds = [each.partition(";")[0].strip().lower() for each in accept.split(",")]
    named = [kind for kind in kinds if kind in ("text/html", "application/xhtml+xml", "application/json")]
    return bool(named) and named[0] != "application/json"


def host_of(header: str, config: Config) -> str:
    """Return the host by which a client came, when it is one; else the address that is listened on."""
    return header if _HOST.fullmatch(header) else f"{config.host}:{config.port}"


def home(ready: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same for a program."""
    return {"name": "pyfaas", "version": __version__, "ready": ready["ready"], "isolation": ready["isolation"], "links": _LINKS}


def render(url: str, ready: Mapping[str, Any]) -> str:
    """Return the page."""
    live = [layer["name"] for layer in ready["layers"] if layer["live"]]
    missing = [layer["name"] for layer in ready["layers"] if not layer["live"]]
    state = "It takes calls." if ready["ready"] else "It is stopping and takes no more calls."
    layers = f"Layers that are live: {', '.join(live) or 'none'}." + (f" Missing: {', '.join(missing)}." if missing else "")
    values = {"version": __version__, "isolation": ready["isolation"], "state": state, "layers": layers, "url": url}
    return _PAGE.substitute({name: html.escape(str(value)) for name, value in values.items()}, style=_STYLE)


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --ground: #fbfbfd; --soft: #ecedf2; --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ec; --ground: #16171b; --soft: #26282f; --link: #8ab8f5; } }
body { font: 1rem/1.6 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 44rem; margin: 3rem auto; padding: 0 1rem; }
h1 { font-size: 1.8rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2rem; }
a { color: var(--link); } code, pre { font-family: ui-monospace, monospace; font-size: .92em; background: var(--soft); border-radius: .3rem; }
code { padding: .1em .3em; } pre { padding: .8rem 1rem; overflow-x: auto; } pre code { padding: 0; }
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>pyfaas $version</title>
<style>$style</style>
</head>
<body>
<main>
<h1>pyfaas $version</h1>
<p>A serverless server for one Linux box: any number of accounts deploy Python functions, and each account's code runs inside its own confined VM.</p>
<p>$state Isolation: <strong>$isolation</strong>. $layers</p>
<h2>First commands</h2>
<p>On the server's own machine the commands find the server and its token by themselves:</p>
<pre tabindex="0"><code>pyfaas init hello
pyfaas deploy hello
pyfaas invoke hello -d '{"name": "Ada"}'</code></pre>
<p>From elsewhere, with a token:</p>
<pre tabindex="0"><code>export PYFAAS_URL=$url PYFAAS_TOKEN=pf_…
pyfaas ls
curl -d '{"name": "Ada"}' -H "Authorization: Bearer $$PYFAAS_TOKEN" $url/v1/functions/hello/invoke</code></pre>
<h2>A token</h2>
<p>The first start wrote <code>default.token</code> and <code>admin.token</code> into the data directory, readable by its owner only.
<code>pyfaas token create</code> makes another one; the operator makes accounts with <code>pyfaas account create NAME</code>.</p>
<h2>Where things are</h2>
<ul>
<li><a href="/openapi.json">/openapi.json</a>: every request and answer, as OpenAPI 3.1</li>
<li><a href="/readyz">/readyz</a>: whether calls are taken, and which layers of isolation are live</li>
<li><a href="/healthz">/healthz</a>: whether the server lives</li>
<li><a href="/metrics">/metrics</a>: figures for Prometheus</li>
<li><code>/f/ACCOUNT/NAME/</code>: a function's own URL</li>
</ul>
</main>
</body>
</html>
""")
