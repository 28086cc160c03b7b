"""The server: build, open, serve, drain, close, in page order.

It is started by the keeper, confined, with every descriptor it needs: the listening socket, the launcher's control
socket, a socket to the keeper, and a pipe whose other end nobody else holds. It never forks and never executes.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import uvloop

from pyfaas.adapters.bundles import DirectoryBundles
from pyfaas.adapters.clock import SystemClock
from pyfaas.adapters.sqlite.connection import Database
from pyfaas.adapters.sqlite.queue import SqliteQueue
from pyfaas.adapters.sqlite.store import SqliteStore
from pyfaas.adapters.workers import SandboxWorkers
from pyfaas.errors import PyfaasError
from pyfaas.handover import Handover, receive_launcher, tell_ready
from pyfaas.model import Scope, VersionState
from pyfaas.service.accounts import OWN_SCOPES, new_token
from pyfaas.service.dispatch import Dispatcher
from pyfaas.service.finish import Finisher
from pyfaas.service.fleet import Fleet
from pyfaas.service.journal import Journal
from pyfaas.service.preparing import Preparing
from pyfaas.service.publishing import Publisher
from pyfaas.service.registry import Registry
from pyfaas.service.service import Service, write_secret
from pyfaas.web.front import Site, start
from sandbox.host.launcher import Launcher

log = logging.getLogger(__name__)
_REFUSES = 78  # EX_CONFIG of sysexits.h: the keeper does not try again
_FLUSH_S = 1.0
_TRIM_S = 3600.0
