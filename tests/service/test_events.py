"""The server's log: nobody waits for whoever reads it."""

from __future__ import annotations

import json
import logging
import os
import threading

from pyfaas.service.events import EventLog


def logger(handler: EventLog) -> logging.Logger:
    """Return a logger of its own that writes to a handler only."""
    made = logging.Logger("test")  # noqa: LOG001 - not one that others could get
    made.addHandler(handler)
    return made


def test_a_reader_that_stopped_costs_lines_and_no_time() -> None:
    """Lines that nobody reads fill the pipe and the queue, and are then counted; once somebody reads, the count is told."""
    reading, writing = os.pipe()
    handler = EventLog(writing, room=100)
    log = logger(handler)
    done = threading.Thread(target=lambda: [log.warning("event", extra={"n": n, "pad": "x" * 100}) for n in range(5000)], daemon=True)
    done.start()
    done.join(30)
    assert not done.is_alive()
    assert handler.dropped > 1000
    found: list[dict[str, object]] = []

    def read() -> None:
        with os.fdopen(reading) as source:
            found.extend(json.loads(line) for line in source)

    reader = threading.Thread(target=read)
    reader.start()
    handler.finish(30)
    os.close(writing)
    reader.join(30)
    told = sum(int(str(line["count"])) for line in found if line["event"] == "log_lines_dropped")
    assert sum(line["event"] == "event" for line in found) + told == 5000


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    """When the reader is gone, or the disk is full, logging goes on and lines are counted as lost."""
    full = os.open("/dev/full", os.O_WRONLY)
    handler = EventLog(full)
    logger(handler).warning("event")
    handler.finish(30)
    os.close(full)
    assert handler.dropped == 1


def test_an_event_is_a_line_of_json() -> None:
    """An event has its name, level and keys; a traceback is a key and not more lines."""
    reading, writing = os.pipe()
    handler = EventLog(writing)
    log = logger(handler)
    try:
        raise LookupError("this")
    except LookupError:
        log.exception("failed", extra={"where": "here"})
    handler.finish(30)
    os.close(writing)
    with os.fdopen(reading) as source:
        (line,) = source.read().splitlines()
    shown = json.loads(line)
    assert (shown["event"], shown["level"], shown["where"]) == ("failed", "error", "here")
    assert "LookupError: this" in shown["traceback"]
