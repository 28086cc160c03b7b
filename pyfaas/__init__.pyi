# What type checkers read instead of __init__.py, whose names load on first use.
from pyfaas.client.aio import AsyncClient
from pyfaas.client.app import App
from pyfaas.client.errors import (
    Error,
    FunctionError,
    Gone,
    InvalidRequest,
    NotAllowed,
    NotFound,
    ServerError,
    Throttled,
)
from pyfaas.client.function import FunctionCall
from pyfaas.client.sync import Client
from pyfaas.runtime.context import Context

__all__ = [
    "App",
    "AsyncClient",
    "Client",
    "Context",
    "Error",
    "FunctionCall",
    "FunctionError",
    "Gone",
    "InvalidRequest",
    "NotAllowed",
    "NotFound",
    "ServerError",
    "Throttled",
    "__version__",
]
__version__: str
