"""`GET /metrics`: the server's figures in Prometheus' text format, read when somebody asks."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from pyfaas import __version__
from pyfaas.model import Caller, Scope
from pyfaas.service.service import Service
from pyfaas.web.streams import CONNECTIONS


async def metrics(service: Service, request: web.Request, caller: Caller | None) -> Any:
    """Give the figures: sums to anybody, by account and function to an admin."""
    families = [_metric(family) for family in await service.metrics(by_function=caller is not None and caller.may(Scope.ADMIN))]
    count = request.app.get(CONNECTIONS)
    if count is not None:
        now, refused = count()
        families.append(_gauge("pyfaas_http_connections", "Connections of clients", {(): float(now)}))
        families.append(CounterMetricFamily("pyfaas_http_connections_refused", "Connections over the limit", value=refused))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given([_build(), *families]))
    ProcessCollector(registry=registry)
    encode, kind = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(registry), headers={"Content-Type": kind, "Cache-Control": "no-store"})


class _Given:
    """A collector of what was measured already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _metric(family: Any) -> Metric:
    if hasattr(family, "buckets"):
        buckets = [("+Inf" if bound == float("inf") else repr(bound), count) for bound, count in family.buckets]
        return HistogramMetricFamily(family.name, family.says, buckets=buckets, sum_value=family.sum)
    made = Metric(family.name, family.says, family.kind)
    end = "_total" if family.kind == "counter" else ""
    for values, value in family.samples.items():
        made.add_sample(family.name + end, dict(zip(family.labels, values, strict=True)), float(value))
    return made


def _gauge(name: str, says: str, samples: dict[tuple[str, ...], float], labels: tuple[str, ...] = ()) -> Metric:
    made = Metric(name, says, "gauge")
    for values, value in samples.items():
        made.add_sample(name, dict(zip(labels, values, strict=True)), value)
    return made


def _build() -> Metric:
    says = {"version": __version__, "python": platform.python_version()}
    return _gauge("pyfaas_build_info", "Release of pyfaas and of Python", {tuple(says.values()): 1.0}, tuple(says))
