"""The verb that prints a completion script, made from the tree of commands.

A script knows verbs, options and their values by itself, and asks the server for names where a name is wanted (`ls -q`,
whose failure is silence). A word belongs to the path of verbs when it makes a known path longer, so that options and
their values may stand anywhere before it. zsh runs the script of bash, through its own bashcompinit.
"""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from pyfaas.cli import console
from pyfaas.cli.verbs import VERBS

app = typer.Typer(rich_markup_mode=None)
SHELLS = ("bash", "zsh", "fish")
# What an argument's help begins with → what lists the names that it may be.
_LISTS = {
    "a function": "ls -q",
    "an account alias": "ls -q --kind alias",
    "a subscription": "ls -q --kind subscription",
    "an API": "api ls -q",
    "what `invoke --async` printed": "jobs ls -q",
    "as `token ls` shows it": "token ls -q",
}

_BASH = """\
_pyfaas_words() {{
  case "$1" in
{words}
  esac
}}
_pyfaas_options() {{
  case "$1" in
{options}
  esac
}}
_pyfaas_values() {{
  case "$1" in
{values}
  esac
}}
_pyfaas() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" where="" found="" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [ -n "$(_pyfaas_options "${{where:+$where }}${{COMP_WORDS[i]}}")" ]; then
      where="${{where:+$where }}${{COMP_WORDS[i]}}"
    fi
  done
  case "$word" in
    -*) found="$(_pyfaas_options "$where")" ;;
    *) found="$(_pyfaas_values "$where $before")"
       [ -n "$found" ] || found="$(_pyfaas_words "$where")" ;;
  esac
  COMPREPLY=($(compgen -W "$found" -- "$word"))
}}
complete -o default -F _pyfaas pyfaas"""

_FISH = """\
function __pyfaas_where
    set -l where
    for word in (commandline -opc)[2..]
        if contains -- (string join -- ' ' $where $word) {paths}
            set where $where $word
        end
    end
    string join -- ' ' $where
end
function __pyfaas_at
    test "$(__pyfaas_where)" = "$argv[1]"
end
"""


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@app.command(epilog="Example: source <(pyfaas completion bash)")
def completion(
    shell: Annotated[str, typer.Argument(metavar="|".join(SHELLS), help="the shell that reads it")] = "bash",
) -> None:
    """Print a completion script for a shell, to be read by it at its start."""
    if shell not in SHELLS:
        raise typer.BadParameter(f"{shell!r} is none of bash, zsh and fish")
    places = list(walk())
    if shell == "fish":
        console.out(_fish(places))
    else:
        console.out(("autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "") + _bash(places))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What may follow a path of verbs: further verbs with their help, options with their values, names of a list."""

    path: str
    verbs: Mapping[str, str]
    options: Mapping[str, tuple[tuple[str, ...], str, bool]]  # values, help, whether it takes a value
    words: tuple[str, ...]
    listed_by: str


def walk() -> Iterator[Place]:
    """Yield every place of the tree, the root first."""
    tree = importlib.import_module("pyfaas.cli.tree")
    yield _place("", tree.build(), {verb: text for verb, (_, text) in VERBS.items()})
    for verb in VERBS:
        yield from _under(verb, tree.load(verb))


def _under(path: str, command: Any) -> Iterator[Place]:
    children = getattr(command, "commands", {})
    yield _place(path, command, {name: _sentence(child.help) for name, child in children.items()})
    for name, child in children.items():
        yield from _under(f"{path} {name}", child)


def _place(path: str, command: Any, verbs: Mapping[str, str]) -> Place:
    options: dict[str, tuple[tuple[str, ...], str, bool]] = {}
    words: tuple[str, ...] = ()
    listed_by = ""
    for param in command.params:
        if param.param_type_name == "argument":
            words = words or _values(param)
            told = str(param.help or "")
            listed_by = listed_by or next((lists for begins, lists in _LISTS.items() if told.startswith(begins)), "")
            continue
        for name in (*param.opts, *param.secondary_opts):
            options[name] = (_values(param), _sentence(param.help), not param.is_flag)
    options["--help"] = ((), "show a verb's help", False)
    return Place(path=path, verbs=verbs, options=options, words=words, listed_by=listed_by)


def _values(param: Any) -> tuple[str, ...]:
    """Return the values that a parameter may have, where its metavar names them."""
    names = str(param.metavar or "").split("|")
    return tuple(names) if len(names) > 1 and all(name.isalpha() and name.islower() for name in names) else ()


def _sentence(text: str | None) -> str:
    return (text or "").partition("\n")[0].rstrip(".")


def _bash(places: list[Place]) -> str:
    def case(key: str, words: str) -> str:
        return f"    {shlex.quote(key)}) echo {shlex.quote(words)} ;;"

    def names(place: Place) -> str:
        listing = f"    {shlex.quote(place.path)}) ${{COMP_WORDS[0]}} {place.listed_by} 2>/dev/null ;;"
        return listing if place.listed_by else case(place.path, " ".join([*place.verbs, *place.words]))

    words = [names(place) for place in places if place.listed_by or place.verbs or place.words]
    options = [case(place.path, " ".join(place.options)) for place in places]
    values = [
        case(f"{place.path} {name}", " ".join(chosen) or " ")  # a blank is no word: the shell completes files
        for place in places
        for name, (chosen, _, takes_value) in place.options.items()
        if takes_value
    ]
    return _BASH.format(words="\n".join(words), options="\n".join(options), values="\n".join(values))


def _fish(places: list[Place]) -> str:
    lines = [_FISH.format(paths=" ".join(_fish_word(place.path) for place in places if place.path))]
    for place in places:
        begin = f"complete -c pyfaas -n {_fish_word(f'__pyfaas_at {_fish_word(place.path)}')}"
        lines += [f"{begin} -f -a {verb} -d {_fish_word(text)}" for verb, text in place.verbs.items()]
        if place.words:
            lines.append(f"{begin} -f -a {_fish_word(' '.join(place.words))}")
        if place.listed_by:
            lines.append(f"{begin} -f -a '(pyfaas {place.listed_by} 2>/dev/null)'")
        for name, (values, text, takes) in place.options.items():
            flag = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
            given = (f" -x -a {_fish_word(' '.join(values))}" if values else " -r") if takes else ""
            lines.append(f"{begin} {flag} -d {_fish_word(text)}{given}")
    return "\n".join(lines)


def _fish_word(text: str) -> str:
    # Between single quotes fish knows two escapes, \' and \\.
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
