"""The standard library's network modules where there is no network: their own errors, at once; what is local works."""

import asyncio
import http.server
import multiprocessing.connection
import os
import select
import selectors
import smtplib
import socket
import socketserver
import tempfile
import threading
import time
import urllib.error
import urllib.request


def tried(work):
    """Return the type of the error, and whether it came at once."""
    started = time.monotonic()
    try:
        work()
    except Exception as error:
        return [type(error).__name__, time.monotonic() - started < 10]
    return ["none", False]


def url():
    return tried(lambda: urllib.request.urlopen("http://example.com/", timeout=30))


def connection():
    return tried(lambda: socket.create_connection(("192.0.2.1", 80), timeout=30))


def name():
    return tried(lambda: socket.getaddrinfo("example.com", 80))


def mail():
    return tried(lambda: smtplib.SMTP("192.0.2.1", timeout=30))


def server():
    return tried(lambda: http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler))


def streams():
    return tried(lambda: asyncio.run(asyncio.wait_for(asyncio.open_connection("192.0.2.1", 80), 30)))


def known():
    """Names and numbers that need nobody."""
    return [socket.gethostbyname("127.0.0.1"), socket.gethostname(), socket.getservbyname("https"), socket.inet_aton("10.0.0.1").hex()]


def unix_http():
    """Serve HTTP on a Unix socket, as local tools do."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"here " + self.path.encode())

        def address_string(self):
            return "local"

        def log_message(self, *args):
            pass

    path = tempfile.mkdtemp() + "/http.sock"
    with socketserver.ThreadingUnixStreamServer(path, Handler) as served:
        threading.Thread(target=served.serve_forever).start()
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(b"GET /x HTTP/1.0\r\n\r\n")
                with client.makefile("rb") as answer:
                    return answer.read().decode().splitlines()[-1]
        finally:
            served.shutdown()


def listener():
    """Authenticate and exchange objects as multiprocessing's connections do."""
    with multiprocessing.connection.Listener(family="AF_UNIX", authkey=b"key") as listening:
        got = []

        def serve():
            with listening.accept() as peer:
                got.append(peer.recv())
                peer.send(len(got))

        thread = threading.Thread(target=serve)
        thread.start()
        with multiprocessing.connection.Client(listening.address, authkey=b"key") as client:
            client.send({"a": 1})
            answer = client.recv()
        thread.join()
    return [got, answer]


def datagrams():
    """Send datagrams and a descriptor over Unix sockets."""
    path = tempfile.mkdtemp() + "/datagram.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        one.bind(path)
        other.sendto(b"hello", path)
        heard = one.recv(10).decode()
    left, right = socket.socketpair()
    with left, right, tempfile.TemporaryFile() as file:
        file.write(b"through")
        file.flush()
        socket.send_fds(left, [b"x"], [file.fileno()])
        _, descriptors, _, _ = socket.recv_fds(right, 10, 1)
        return [heard, os.pread(descriptors[0], 10, 0).decode()]


def waiting():
    """Wait by select, poll, epoll and selectors."""
    left, right = socket.socketpair()
    with left, right, selectors.DefaultSelector() as selector, select.epoll() as epoll:
        right.send(b"x")
        poll = select.poll()
        poll.register(left, select.POLLIN)
        epoll.register(left, select.EPOLLIN)
        selector.register(left, selectors.EVENT_READ)
        return [len(select.select([left], [], [], 30)[0]), len(poll.poll(30_000)), len(epoll.poll(30)), len(selector.select(30))]


def handler(event, context):
    return globals()[event["case"]]()
