"""The options that say what is published, for the verbs that publish: they win over what the code's own files say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pyfaas.cli.session import pairs

Name = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="the function's name; else the file says, or its path", show_default=False),
]
Handler = Annotated[str | None, typer.Option("--handler", metavar="MODULE:ATTRIBUTE", help="what is called", show_default=False)]
Requirements = Annotated[
    Path | None, typer.Option("--requirements", metavar="FILE", help="a file that lists requirements", show_default=False)
]
Memory = Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="such as 256M", show_default=False)]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="such as 30s", show_default=False)]
Env = Annotated[
    list[str] | None, typer.Option("--env", metavar="K=V", help="an environment variable; repeats", show_default=False)
]


def overrides(
    handler: str | None, memory: str | None, timeout: str | None, env: list[str] | None
) -> dict[str, Any]:
    """Return the keys of pyfaas.toml that options say; raises BadParameter for a variable without a name."""
    said: dict[str, Any] = {"handler": handler, "memory": memory, "timeout": timeout}
    if env:
        said["env"] = pairs(env, "--env")
    return said
