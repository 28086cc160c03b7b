"""The verb that prints a completion script, made from the tree of commands."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from pyfaas.cli import console
from pyfaas.cli.verbs import VERBS

app = typer.Typer(rich_markup_mode=None)
_GLOBALS = "-o -q -v --curl --help"
_BASH = """_pyfaas() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" verb="" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "${{COMP_WORDS[i]}}" in -*) ;; *) verb="${{COMP_WORDS[i]}}"; break ;; esac
  done
  case "$verb" in
{cases}
    *) COMPREPLY=($(compgen -W "{verbs} {options} --version" -- "$word")) ;;
  esac
}}
complete -o default -F _pyfaas pyfaas"""


@app.callback()
def _group() -> None:
    """Keep the one verb a verb of a group."""


@app.command()
def completion(shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="the shell")] = "bash") -> None:
    """Print a completion script; use it with: source <(pyfaas completion bash)."""
    if shell not in ("bash", "zsh", "fish"):
        raise typer.BadParameter(f"{shell!r} is none of bash, zsh and fish")
    words = {verb: _words(verb) for verb in VERBS}
    if shell == "fish":
        for verb, (_, text) in VERBS.items():
            console.out(f"complete -c pyfaas -n __fish_use_subcommand -f -a {verb} -d '{text.replace(chr(39), '')}'")
            console.out(f"complete -c pyfaas -n '__fish_seen_subcommand_from {verb}' -a '{' '.join(words[verb])}'")
        return
    cases = "\n".join(
        f'    {verb}) COMPREPLY=($(compgen -W "{" ".join(found)}" -- "$word")) ;;' for verb, found in words.items()
    )
    script = _BASH.format(cases=cases, verbs=" ".join(VERBS), options=_GLOBALS)
    console.out(f"autoload -U +X bashcompinit && bashcompinit\n{script}" if shell == "zsh" else script)


def _words(verb: str) -> list[str]:
    command = importlib.import_module("pyfaas.cli.tree").load(verb)
    options = [name for param in command.params for name in param.opts if name.startswith("--")]
    return [*getattr(command, "commands", {}), *options]
