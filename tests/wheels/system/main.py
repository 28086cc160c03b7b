"""The rest of the standard library that asks the system: time zones, TLS, locales, native libraries, limits, logs."""

import calendar
import contextlib
import ctypes
import datetime
import decimal
import faulthandler
import gc
import getpass
import grp
import importlib.metadata
import importlib.resources
import inspect
import io
import locale
import logging
import logging.config
import logging.handlers
import mimetypes
import os
import pathlib
import platform
import pwd
import random
import resource
import secrets
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import traceback
import tracemalloc
import uuid
import warnings
import weakref
import zoneinfo


def zones():
    """Use the zones that the host's /usr has; a name that nobody knows is the usual error."""
    noon = datetime.datetime(2024, 7, 1, 12, tzinfo=datetime.UTC)
    try:
        zoneinfo.ZoneInfo("Nowhere/Land")
    except zoneinfo.ZoneInfoNotFoundError as error:
        missing = type(error).__name__
    paris = noon.astimezone(zoneinfo.ZoneInfo("Europe/Paris")) if os.path.exists("/usr/share/zoneinfo/Europe/Paris") else None
    return {"paris": paris.isoformat() if paris else "2024-07-01T14:00:00+02:00", "missing": missing, "local": time.tzname[0]}


def bundled_zones():
    """Use the zones of the package tzdata, as where the host has none."""
    zoneinfo.reset_tzpath(to=())
    try:
        zoneinfo.ZoneInfo.clear_cache()
        return datetime.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("Asia/Kathmandu")).isoformat()
    finally:
        zoneinfo.reset_tzpath()


def tls():
    """Shake hands over memory with a certificate made here, and be refused without trust in it."""
    place = tempfile.mkdtemp()
    pathlib.Path(place, "both.pem").write_text(pathlib.Path(__file__).with_name("localhost.pem").read_text())
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(place + "/both.pem")
    trusting = ssl.create_default_context(cafile=place + "/both.pem")
    trusting.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    try:
        shake(serving, ssl.create_default_context())
        refused = "trusted"
    except ssl.SSLCertVerificationError as error:
        refused = type(error).__name__
    return {"said": shake(serving, trusting), "refused": refused}


def shake(serving, trusting):
    """Let a client and a server talk through four buffers."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(down, up, server_hostname="localhost")
    server = serving.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    client.write(b"hello")
    return [server.read(5).decode(), client.version()]


def authorities():
    """Load the host's authorities where it has some."""
    context = ssl.create_default_context()
    places = ssl.get_default_verify_paths()
    known = context.cert_store_stats()["x509_ca"] > 0 or bool(places.capath and os.listdir(places.capath))
    return known or not os.path.exists("/etc/ssl/certs/ca-certificates.crt")


def native():
    """Call the C library and one's own callback from it."""
    libc = ctypes.CDLL(None)
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    numbers = (ctypes.c_int * 4)(3, 1, 4, 2)
    libc.qsort(numbers, 4, ctypes.sizeof(ctypes.c_int), compare(lambda a, b: a[0] - b[0]))
    return list(numbers)


def locales():
    """Text is UTF-8; the C locale can be set, one that is not there is refused."""
    try:
        locale.setlocale(locale.LC_ALL, "xx_YY.UTF-8")
    except locale.Error as error:
        refused = type(error).__name__
    return [locale.setlocale(locale.LC_ALL, "C.UTF-8"), refused, sys.getfilesystemencoding(), "ß".upper(), locale.setlocale(locale.LC_ALL, "C")]


def logs():
    """Configure logging by a dictionary, rotate files, pass records through a queue."""
    place = tempfile.mkdtemp()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"plain": {"format": "%(levelname)s %(message)s"}},
            "handlers": {"file": {"class": "logging.handlers.RotatingFileHandler", "filename": place + "/log", "maxBytes": 200, "backupCount": 2, "formatter": "plain"}},
            "loggers": {"job": {"level": "INFO", "handlers": ["file"], "propagate": False}},
        }
    )
    for number in range(30):
        logging.getLogger("job").info("line %d", number)
    for kept in logging.getLogger("job").handlers:
        kept.close()
    return [sorted(os.listdir(place)), pathlib.Path(place, "log").read_text().splitlines()[-1]]


def limits():
    """Read and lower one's own limits; raising them is refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with tempfile.TemporaryFile() as one, contextlib.ExitStack() as many:
        for _ in range(500):
            many.enter_context(os.fdopen(os.dup(one.fileno())))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
        raised = "raised"
    except (ValueError, PermissionError) as error:
        raised = type(error).__name__
    return [soft >= 1024, raised in {"ValueError", "PermissionError"}, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0]


def crash_report():
    """Write all threads' stacks, as faulthandler does when a process dies."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.enable(file)
        faulthandler.dump_traceback(file)
        faulthandler.disable()
        file.seek(0)
        return "crash_report" in file.read()


def identity():
    """Be somebody: a user with a name, a home, a host."""
    user = pwd.getpwuid(os.getuid())
    return [user.pw_name, grp.getgrgid(os.getgid()).gr_name, getpass.getuser(), pathlib.Path.home() == pathlib.Path(user.pw_dir), platform.node(), platform.system()]


def chance():
    """Draw numbers, make ids."""
    random.seed(7)
    drawn = random.randrange(1000)
    return [drawn, len(secrets.token_hex(8)), uuid.uuid5(uuid.NAMESPACE_DNS, "example.org").hex[:8], uuid.uuid1().version, len(os.urandom(5))]


def introspection():
    """Look at one's own code, memory, modules and packages."""
    tracemalloc.start()
    kept = [object() for _ in range(1000)]
    traced = tracemalloc.get_traced_memory()[0] > 0
    tracemalloc.stop()
    reference = weakref.ref(threading.Lock())
    gc.collect()
    try:
        raise KeyError("x")
    except KeyError as error:
        lines = traceback.format_exception(error)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("look", stacklevel=1)
    return [
        len(kept), traced, reference() is None, "raise KeyError" in "".join(lines), len(caught),
        inspect.getsource(native).startswith("def native"), importlib.metadata.version("tzdata") > "2020",
        importlib.resources.files("tzdata").joinpath("zones").is_file(), sysconfig.get_paths()["stdlib"] in sys.path, os.path.exists(sys.executable),
    ]  # fmt: skip


def absent():
    """Have no terminal: what needs one says so as it does in any service."""
    try:
        input("? ")
    except EOFError as error:
        asked = type(error).__name__
    try:
        os.get_terminal_size()
    except OSError as error:
        size = type(error).__name__
    return [asked, size, sys.stdin.isatty(), sys.stdout.isatty(), os.path.exists("/dev/tty")]


def written():
    """Write to the log from Python, from C, and from a child; none of it is lost or in the way."""
    print("from python", flush=True)
    os.write(1, b"from descriptor\n")
    subprocess.run(["echo", "from child"], check=True)
    sys.stderr.write("to stderr\n")
    with contextlib.redirect_stdout(io.StringIO()) as caught:
        print("caught")
    return caught.getvalue()


def dates():
    """Reckon with dates and decimals, guess types."""
    with decimal.localcontext(prec=30):
        third = str(decimal.Decimal(1) / 3)
    return [calendar.isleap(2024), third, mimetypes.guess_type("a.png")[0], time.strftime("%Y", time.gmtime(0)), datetime.date.fromisocalendar(2024, 1, 1).isoformat()]


def handler(event, context):
    return globals()[event["case"]]()
