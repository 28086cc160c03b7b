"""The verbs, each with the module that is imported when it is used; and those that ask no server for anything."""

VERBS = {
    "serve": ("pyfaas.cli.serve", "run the server"),
    "init": ("pyfaas.cli.publish", "scaffold a function directory"),
    "deploy": ("pyfaas.cli.publish", "publish a version of a directory, a Python file or a zip"),
    "invoke": ("pyfaas.cli.invoke", "run a function; the result on stdout"),
    "run": ("pyfaas.cli.invoke", "run a file's function once in a container, deploying nothing"),
    "map": ("pyfaas.cli.map", "run a function once for each line of a file"),
    "logs": ("pyfaas.cli.logs", "show a function's log, or a version's build log"),
    "ls": ("pyfaas.cli.functions", "list functions"),
    "describe": ("pyfaas.cli.functions", "show a function"),
    "versions": ("pyfaas.cli.functions", "list a function's versions"),
    "rm": ("pyfaas.cli.functions", "remove a function or a version"),
    "rollback": ("pyfaas.cli.functions", "go back to the previous ready version"),
    "alias": ("pyfaas.cli.aliases", "release aliases: set, ls, rm"),
    "jobs": ("pyfaas.cli.jobs", "asynchronous work, dead letters included: ls, get, wait, cancel, replay"),
    "account": ("pyfaas.cli.accounts", "accounts: create, ls, rm (admin)"),
    "token": ("pyfaas.cli.accounts", "tokens: create, ls, revoke, rotate-admin"),
    "login": ("pyfaas.cli.accounts", "keep a server's URL and a token in a profile"),
    "whoami": ("pyfaas.cli.accounts", "show whom the token speaks for"),
    "usage": ("pyfaas.cli.usage", "show what was used"),
    "fleet": ("pyfaas.cli.operate", "show VMs, containers and fleets"),
    "doctor": ("pyfaas.cli.doctor", "show what this kernel allows, layer by layer"),
    "backup": ("pyfaas.cli.backup", "write all that the running server keeps to a file (admin)"),
    "restore": ("pyfaas.cli.backup", "make a data directory out of a backup"),
    "service": ("pyfaas.cli.service", "print a systemd unit that runs the server"),
    "openapi": ("pyfaas.cli.operate", "print the server's OpenAPI document"),
    "limits": ("pyfaas.cli.operate", "show every limit"),
    "demo": ("pyfaas.cli.demo", "start a server, deploy the examples, call them, stop"),
    "completion": ("pyfaas.cli.completion", "print a completion script for bash, zsh or fish"),
}

LOCAL = frozenset({"serve", "init", "doctor", "restore", "service", "demo", "completion"})
