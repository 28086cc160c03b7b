"""What the server knows, in memory: every control write is commit → swap here → answer.

Reads never touch the disk. An entry's `routes` are what the hot path uses: they hold for as long as nothing
about the function changed, and are dropped by every change.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pyfaas.decisions.access import check_token
from pyfaas.decisions.staleness import Tally
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import (
    Account,
    AccountId,
    Caller,
    Function,
    FunctionId,
    Outcome,
    PointerMove,
    Token,
    Version,
    VersionState,
)
from pyfaas.ports import Snapshot

if TYPE_CHECKING:
    from pyfaas.service.lane import Call


class Entry:
    """A function with its versions and pointers, and what the dispatcher keeps beside it."""

    __slots__ = ("_streams", "counted", "cut", "function", "gates", "highest", "moves", "ran", "routes", "running", "straying", "tallies", "versions", "watchers")

    def __init__(self, function: Function) -> None:
        """Begin without versions."""
        self.function = function
        self.gates = (self,)  # what counts a call of its owner's
        self.versions: dict[int, Version] = {}
        self.moves: dict[str, list[PointerMove]] = {}
        self.highest = 0
        self.cut: dict[str, set[int]] = {}  # pointer → versions that it names and that have taken over
        self.ran: set[int] = set()  # versions that ran since a pointer was moved to them
        self.tallies: dict[str, Tally] = {}  # qualifier → how many old versions' answers since its pointer moved
        self.straying: deque[Call] = deque()  # calls that wait for a substitute: the named version may take them as well
        self.routes: dict[Any, Any] = {}  # qualifier, or way → lane, for calls that need no decision
        self._streams: bool | None = None
        self.running = 0  # runs admitted now, of the function's own tenant key
        self.counted: Callable[[int, Outcome], None] | None = None  # a canary counts: told of each run's executed version and outcome
        self.watchers: set[Callable[[], None]] = set()  # who waits for a change of its versions or pointers

    @property
    def limit(self) -> int:
        """How many runs under one tenant key may be admitted at once."""
        return self.function.settings.concurrency

    def newest(self) -> Version | None:
        """Return the newest living version."""
        return next((v for _, v in sorted(self.versions.items(), reverse=True) if not v.deleted), None)

    def put(self, version: Version) -> None:
        """Take in a new or changed version."""
        self.versions[version.number] = version
        self.highest = max(self.highest, version.number)
        self.changed()

    def move(self, move: PointerMove) -> None:
        """Take in a pointer's move."""
        named = {move.version, *move.weights}
        self.moves.setdefault(move.pointer, []).append(move)
        self.cut[move.pointer] = self.cut.get(move.pointer, set()) & named
        self.ran -= named - self.cut[move.pointer]
        self.tallies.pop(move.pointer, None)
        self.changed()

    def cut_over(self, pointer: str, number: int) -> None:
        """Take note that a version which a pointer names has taken over."""
        self.cut.setdefault(pointer, set()).add(number)
        self.changed()

    def is_cut(self, pointer: str, number: int) -> bool:
        """Whether a version that a pointer names has taken over."""
        return number in self.cut.get(pointer, ())

    def is_settled(self, number: int) -> bool:
        """Whether a version has taken over wherever a pointer names it."""
        return all(self.is_cut(pointer, number) for pointer in self.pointers_to(number))

    def changed(self) -> None:
        """Drop what was decided from the old state, and wake who waits for a new one."""
        self.routes.clear()
        self._streams = None
        for watcher in list(self.watchers):
            watcher()

    def streams(self) -> bool:
        """Tell whether a ready version answers in pieces."""
        if self._streams is None:
            self._streams = any(v.generator and v.state is VersionState.READY for v in self.versions.values())
        return self._streams

    def current(self, pointer: str) -> int | None:
        """Return the version a pointer names now."""
        history = self.moves.get(pointer)
        return history[-1].version if history else None

    def next_seq(self) -> int:
        """Return the number of the function's next pointer move."""
        return max((move.seq for history in self.moves.values() for move in history), default=0) + 1

    def pointers_to(self, number: int) -> list[str]:
        """Return the pointers that name a version now."""
        return [p for p, moves in self.moves.items() if moves and number in {moves[-1].version, *moves[-1].weights}]


class Registry:
    """Accounts, tokens and functions by every key they are asked for."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Take in what the store holds."""
        self.accounts: dict[AccountId, Account] = {}
        self.account_names: dict[str, Account] = {}
        self.callers: dict[bytes, Caller] = {}  # sha256 of the token's text → caller
        self.tokens: dict[str, Token] = {}
        self.entries: dict[FunctionId, Entry] = {}
        self.by_name: dict[tuple[AccountId, str], Entry] = {}
        self.on_change: Callable[[], None] = lambda: None  # an account or a function came, changed or went
        for account in snapshot.accounts:
            self.put_account(account)
        for token in snapshot.tokens:
            self.put_token(token)
        for function in snapshot.functions:
            self.put_function(function)
        for version in snapshot.versions:
            if version.function in self.entries:
                self.entries[version.function].put(version)
        for move in sorted(snapshot.moves, key=lambda m: m.seq):
            if move.function in self.entries:
                self.entries[move.function].move(move)

    # ---- accounts and tokens

    def put_account(self, account: Account) -> None:
        """Take in an account; who presents its tokens is the account as it is now."""
        self.accounts[account.id] = account
        self.account_names[account.name] = account
        for token in self.tokens.values():
            if token.account == account.id:
                self.callers[token.digest] = Caller(account=account, token=token)
        self.on_change()

    def drop_account(self, account: Account) -> None:
        """Forget an account, its tokens and its functions."""
        self.accounts.pop(account.id, None)
        self.account_names.pop(account.name, None)
        for token in [t for t in self.tokens.values() if t.account == account.id]:
            self.drop_token(token)
        for entry in self.functions_of(account.id):
            self.drop_function(entry)
        self.on_change()

    def account(self, name_or_id: str) -> Account:
        """Find a living account by either; raises not_found."""
        found = self.accounts.get(AccountId(name_or_id)) or self.account_names.get(name_or_id)
        if found is None:
            raise not_found("account", name_or_id)
        return found

    def put_token(self, token: Token) -> None:
        """Take in a token; a revoked one is left out."""
        account = self.accounts.get(token.account)
        if account is not None and token.revoked is None:
            self.tokens[token.id] = token
            self.callers[token.digest] = Caller(account=account, token=token)

    def drop_token(self, token: Token) -> None:
        """Forget a token at once."""
        self.tokens.pop(token.id, None)
        self.callers.pop(token.digest, None)

    def authenticate(self, header: bytes, now: float) -> Caller:
        """Find who presents an Authorization header's value; raises unauthenticated."""
        scheme, _, secret = header.partition(b" ")
        caller = self.callers.get(hashlib.sha256(secret.strip()).digest()) if scheme.lower() == b"bearer" else None
        check_token(caller.token if caller else None, now)
        assert caller is not None  # noqa: S101 - check_token raised otherwise
        return caller

    # ---- functions

    def put_function(self, function: Function) -> Entry:
        """Take in a new or changed function."""
        entry = self.entries.get(function.id)
        if entry is None:
            entry = self.entries[function.id] = Entry(function)
        entry.function = function
        entry.routes.clear()
        self.by_name[(function.account, function.name)] = entry
        self.on_change()
        return entry

    def drop_function(self, entry: Entry) -> None:
        """Forget a function."""
        entry.routes.clear()
        self.entries.pop(entry.function.id, None)
        self.by_name.pop((entry.function.account, entry.function.name), None)
        self.on_change()

    def entry(self, account: AccountId, name: str) -> Entry:
        """Find an account's own function; raises not_found."""
        found = self.by_name.get((account, name))
        if found is None:
            raise not_found("function", name)
        return found

    def functions_of(self, account: AccountId) -> list[Entry]:
        """Return an account's functions by name."""
        return [e for (owner, _), e in sorted(self.by_name.items()) if owner == account]

    def version(self, entry: Entry, number: int) -> Version:
        """Return a living version; raises not_found or gone."""
        version = entry.versions.get(number)
        if version is None:
            raise not_found("version", f"{entry.function.name}:{number}")
        if version.deleted:
            raise PyfaasError(Code.GONE, f"version {number} of {entry.function.name!r} was removed")
        return version

    def all_versions(self) -> Iterable[tuple[Entry, Version]]:
        """Yield every living version."""
        for entry in self.entries.values():
            for version in entry.versions.values():
                if not version.deleted:
                    yield entry, version
