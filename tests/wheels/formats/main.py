"""Formats: JSON, MessagePack, YAML, HTML, Markdown, spreadsheets, PDF, dates, protobuf, Zstandard."""

import datetime
import io

import markdown
import msgpack
import openpyxl
import orjson
import regex
import simplejson
import yaml
import zstandard
from bs4 import BeautifulSoup
from dateutil import parser, rrule
from google.protobuf import struct_pb2
from reportlab.pdfgen import canvas

VALUE = {"n": [1, 2.5, None], "t": "ä"}


def values():
    document = struct_pb2.Struct()
    document.update({"a": 1})
    again = struct_pb2.Struct.FromString(document.SerializeToString())
    return [
        orjson.loads(orjson.dumps(VALUE)) == VALUE, msgpack.unpackb(msgpack.packb(VALUE)) == VALUE, yaml.safe_load(yaml.safe_dump(VALUE)) == VALUE,
        yaml.load("a: 1", Loader=yaml.CSafeLoader), simplejson.dumps(VALUE["n"]), again["a"],
    ]  # fmt: skip


def pages():
    page = BeautifulSoup(markdown.markdown("# One\n\n* [two](/three)\n"), "html.parser")
    return [page.h1.text, page.a["href"], regex.findall(r"\p{Lu}", "aÄbC")]


def sheets():
    book = openpyxl.Workbook()
    book.active.append(["a", 1])
    book.active["C1"] = "=B1*2"
    out = io.BytesIO()
    book.save(out)
    again = openpyxl.load_workbook(io.BytesIO(out.getvalue())).active
    return [cell.value for cell in again[1]]


def documents():
    out = io.BytesIO()
    page = canvas.Canvas(out, pagesize=(200, 200))
    page.drawString(10, 10, "hello")
    page.save()
    packed = zstandard.ZstdCompressor(threads=2).compress(b"x" * 10000)
    return [out.getvalue()[:5].decode(), b"%%EOF" in out.getvalue(), len(packed) < 100, len(zstandard.decompress(packed))]


def dates():
    start = parser.parse("29 Feb 2024 10:00 UTC")
    return [start.isoformat(), [one.day for one in rrule.rrule(rrule.MONTHLY, dtstart=datetime.datetime(2024, 1, 31), count=3, bymonthday=-1)]]


def handler(event, context):
    return globals()[event["case"]]()
