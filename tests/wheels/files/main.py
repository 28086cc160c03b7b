"""Files, archives and databases of the standard library, in the private /tmp."""

import configparser
import csv
import dbm.dumb
import fcntl
import filecmp
import glob
import gzip
import hashlib
import io
import json
import lzma
import mmap
import os
import pathlib
import pickle
import shelve
import shutil
import sqlite3
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor


def temporary():
    """Make, fill and remove temporary files and directories."""
    with tempfile.TemporaryDirectory() as place:
        path = pathlib.Path(place, "a", "b.txt")
        path.parent.mkdir()
        path.write_text("ä\n", encoding="utf-8")
        size = path.stat().st_size
        inside = place.startswith("/tmp/")
    with tempfile.NamedTemporaryFile("w+") as named, tempfile.SpooledTemporaryFile(max_size=4) as spooled, tempfile.TemporaryFile() as nameless:
        named.write("x")
        named.flush()
        again = pathlib.Path(named.name).read_text()
        spooled.write(b"longer than four")
        spooled.seek(7)
        nameless.write(b"z")
        return [size, inside, os.path.exists(place), again, spooled.read().decode(), nameless.tell()]


def tree():
    """Copy, move, walk, compare, remove."""
    top = pathlib.Path(tempfile.mkdtemp())
    (top / "from" / "deep").mkdir(parents=True)
    (top / "from" / "one.txt").write_text("1")
    (top / "from" / "deep" / "two.txt").write_text("2")
    (top / "from" / "link").symlink_to("one.txt")
    shutil.copytree(top / "from", top / "to", symlinks=True)
    shutil.move(top / "to" / "one.txt", top / "to" / "uno.txt")
    os.link(top / "to" / "uno.txt", top / "to" / "hard.txt")
    os.utime(top / "to" / "uno.txt", (0, 86400))
    os.chmod(top / "to" / "uno.txt", 0o640)
    shutil.copy2(top / "to" / "uno.txt", top / "to" / "copy.txt")
    copied = (top / "to" / "copy.txt").stat()
    names = sorted(path.relative_to(top / "to").as_posix() for path in (top / "to").rglob("*"))
    found = len(glob.glob(str(top / "**" / "*.txt"), recursive=True))
    same = filecmp.cmp(top / "to" / "uno.txt", top / "from" / "one.txt", shallow=False)
    shutil.rmtree(top)
    return [names, found, same, int(copied.st_mtime), oct(copied.st_mode & 0o777), top.exists()]


def archives():
    """Pack and unpack in every format."""
    place = pathlib.Path(tempfile.mkdtemp())
    (place / "in").mkdir()
    (place / "in" / "a.txt").write_text("hello " * 100)
    told = {}
    for kind in ("zip", "tar", "gztar", "bztar", "xztar"):
        shutil.unpack_archive(shutil.make_archive(str(place / kind), kind, place / "in"), place / f"out-{kind}")
        told[kind] = (place / f"out-{kind}" / "a.txt").read_text() == "hello " * 100
    with tarfile.open(place / "gztar.tar.gz") as tar, zipfile.ZipFile(place / "zip.zip") as packed:
        members = [len([one for one in tar.getmembers() if one.isfile()]), packed.testzip()]
    return [told, members[0], members[1] is None, gzip.decompress(gzip.compress(b"x")) == lzma.decompress(lzma.compress(b"x"))]


def database():
    """Work with SQLite in a file: WAL, threads, a transaction rolled back, full text."""
    path = tempfile.mkdtemp() + "/x.db"
    with sqlite3.connect(path) as kept:
        mode = kept.execute("pragma journal_mode=wal").fetchone()[0]
        kept.execute("create table birds (species text, mass int)")
        kept.executemany("insert into birds values (?, ?)", [("gentoo", 5076), ("adelie", 3701), ("adelie", 3700)])
    kept.close()

    def count(_):
        own = sqlite3.connect(path, timeout=30)
        own.execute("insert into birds values ('chinstrap', 3733)")
        own.commit()
        own.close()

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(count, range(8)))
    kept = sqlite3.connect(path)
    try:
        with kept:
            kept.execute("delete from birds")
            raise ValueError("back")
    except ValueError:
        pass
    rows = kept.execute("select species, count(*), max(mass) from birds group by species order by 1").fetchall()
    kept.execute("create virtual table notes using fts5(text)")
    kept.execute("insert into notes values ('a penguin walked')")
    kept.commit()
    found = kept.execute("select count(*) from notes where notes match 'penguin'").fetchone()[0]
    copy = sqlite3.connect(":memory:")
    kept.backup(copy)
    backed_up = copy.execute("select count(*) from birds").fetchone()[0]
    copy.close()
    kept.close()
    return [mode, rows, found, backed_up]


def shelves():
    """Keep objects in files."""
    place = tempfile.mkdtemp()
    with shelve.Shelf(dbm.dumb.open(place + "/shelf", "c")) as kept:
        kept["a"] = {"n": [1, 2]}
    with shelve.Shelf(dbm.dumb.open(place + "/shelf", "r")) as kept, dbm.open(place + "/any", "c") as whichever:
        whichever[b"k"] = b"v"
        return [kept["a"], whichever[b"k"].decode(), pickle.loads(pickle.dumps({1, 2}, protocol=5)) == {1, 2}]


def mapped():
    """Map a file and memory, and lock a file."""
    with tempfile.TemporaryFile() as file:
        file.truncate(8192)
        with mmap.mmap(file.fileno(), 0) as view:
            view[4096:4101] = b"hello"
            view.flush()
            found = view.find(b"hello")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.seek(4096)
        anonymous = mmap.mmap(-1, 100)
        anonymous[:2] = b"ok"
        memory = os.memfd_create("name")
        os.write(memory, b"abc")
        size = os.fstat(memory).st_size
        os.close(memory)
        return [found, file.read(5).decode(), bytes(anonymous[:2]).decode(), size]


def pipes():
    """Name a pipe, write into it from a thread, and read."""
    path = tempfile.mkdtemp() + "/pipe"
    os.mkfifo(path, 0o600)
    with ThreadPoolExecutor(1) as workers:
        workers.submit(pathlib.Path(path).write_text, "through")
        read = pathlib.Path(path).read_text()
    return [read, pathlib.Path(path).is_fifo()]


def texts():
    """Read and write the usual formats."""
    out = io.StringIO()
    csv.DictWriter(out, ["a", "b"]).writerows([{"a": 1, "b": 'x,"y"'}])
    config = configparser.ConfigParser()
    config.read_string("[one]\nkey = value\n")
    return [out.getvalue(), config["one"]["key"], json.loads('{"a": [1, 2.5, null]}')["a"][:2], hashlib.file_digest(io.BytesIO(b"x"), "sha256").hexdigest()[:8]]


def places():
    """See what may be written, and get the usual errors where not."""
    told = {"free": shutil.disk_usage("/tmp").free > 0, "home": os.path.expanduser("~"), "cwd": os.getcwd()}
    for path in ("/usr/x", "/x", str(pathlib.Path(__file__).with_name("x"))):
        try:
            pathlib.Path(path).write_text("x")
        except OSError as error:
            told[pathlib.Path(path).parent.name or "/"] = type(error).__name__ if type(error) is not OSError else os.strerror(error.errno)
    return told


def handler(event, context):
    return globals()[event["case"]]()
