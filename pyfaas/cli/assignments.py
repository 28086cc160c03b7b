"""What repeated options say of keys: `K=V` is text, `K:=JSON` is JSON; of secrets `K=@FILE`, `K=-` for stdin, or `K=VALUE`.

A message names a secret's key and never its value, which may be what was typed in the wrong place.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from pyfaas.cli import console
from pyfaas.cli.options import Globals
from pyfaas.client.errors import invalid

_STDIN = ("-", "@-")


def values(given: Sequence[str], option: str) -> dict[str, Any]:
    """Read `K=V` and `K:=JSON`; raises BadParameter for anything else, and for a key that is there twice."""
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        is_json = key.endswith(":")
        key = key.removesuffix(":")
        if not key or not equals:
            raise typer.BadParameter(f"{option}: {text!r} is not K=V, or K:=JSON for what is no text")
        _once(key, found, option)
        found[key] = _json(key, value, option) if is_json else value
    return found


def _json(key: str, value: str, option: str) -> Any:
    try:
        return json.loads(value, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise typer.BadParameter(f"{option}: {key}:={value} is not followed by JSON; for text write {key}={value}") from None


def _no_number(word: str) -> Any:
    raise ValueError(word)  # NaN and Infinity are Python's, not JSON's


def _once(key: str, found: dict[str, Any], option: str) -> None:
    if key in found:
        raise typer.BadParameter(f"{option}: {key} is given twice")


def secrets(given: Sequence[str], option: str, chosen: Globals) -> dict[str, str]:
    """Read secrets; a file's or stdin's last line end is left out. With --curl a placeholder stands for each value.

    Raises BadParameter for what is none of the forms, InvalidRequest for a file that cannot be read, or is no text.
    """
    found: dict[str, str] = {}
    if sum(text.partition("=")[2] in _STDIN for text in given) > 1:
        raise typer.BadParameter(f"{option}: stdin can be one secret's value only")
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{option}: write K=@FILE, K=- for stdin, or K=VALUE")
        _once(key, found, option)
        found[key] = f"<the value of {key}>" if chosen.curl else _secret(key, value, option, chosen)
    return found


def _secret(key: str, value: str, option: str, chosen: Globals) -> str:
    if value in _STDIN:
        return _typed(key)
    if value.startswith("@"):
        try:
            return _text(Path(value[1:]).read_bytes(), key)
        except OSError as error:
            raise invalid(f"{option}: {key}: {value[1:]}: {error.strerror}") from None
    hint = f"{option} {key}=@FILE or {key}=- keeps it to yourself"
    console.note(chosen, f"warning: the value of {key} was visible in `ps`, and may be in the shell's history; {hint}")
    return value


def _typed(key: str) -> str:
    if sys.stdin.isatty():
        return str(typer.prompt(key, hide_input=True, err=True))
    return _text(sys.stdin.buffer.read(), key)


def _text(content: bytes, key: str) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise invalid(f"the secret {key} is no text in UTF-8", "encode it, with base64 say, and decode it in the function") from None
    return text.removesuffix("\n").removesuffix("\r")
