"""Clients of databases and queues without a network: their own errors, at once; what is local works."""

import asyncio
import threading
import time

import aiohttp
import grpc
import paramiko
import psycopg
import pymongo
import pymysql
import redis
import websockets
import zmq


def tried(work):
    """Return the type of the error, and whether it came at once."""
    started = time.monotonic()
    try:
        work()
    except Exception as error:
        return [f"{type(error).__module__.partition('.')[0]}.{type(error).__name__}", time.monotonic() - started < 15]
    return ["none", False]


def by_redis():
    return tried(lambda: redis.Redis("192.0.2.1", socket_timeout=30).ping())


def by_psycopg():
    return tried(lambda: psycopg.connect("postgresql://ada@192.0.2.1/birds?connect_timeout=30"))


def by_pymysql():
    return tried(lambda: pymysql.connect(host="192.0.2.1", connect_timeout=30))


def by_pymongo():
    """Its own patience decides how long it tries again."""
    return tried(lambda: pymongo.MongoClient("192.0.2.1", serverSelectionTimeoutMS=500).admin.command("ping"))


def by_paramiko():
    return tried(lambda: paramiko.SSHClient().connect("192.0.2.1", timeout=30))


def by_aiohttp():
    async def get():
        async with aiohttp.ClientSession() as session, session.get("http://192.0.2.1/"):
            pass

    return tried(lambda: asyncio.run(get()))


def by_websockets():
    return tried(lambda: asyncio.run(websockets.connect("ws://192.0.2.1/", open_timeout=30).__aenter__()))


def by_grpc():
    with grpc.insecure_channel("192.0.2.1:50051") as channel:
        call = channel.unary_unary("/birds/Get", request_serializer=bytes, response_deserializer=bytes)
        try:
            call(b"", timeout=20)
        except grpc.RpcError as error:
            return error.code().name


def zmq_pairs():
    """Talk over inproc and over a Unix socket."""
    told = []
    with zmq.Context() as context:
        for address in ("inproc://a", "ipc:///tmp/zmq.sock"):
            with context.socket(zmq.REP) as serving, context.socket(zmq.REQ) as asking:
                serving.bind(address)
                asking.connect(address)
                answering = threading.Thread(target=lambda: serving.send(serving.recv()[::-1]))
                answering.start()
                asking.send(b"abc")
                told.append(asking.recv().decode())
                answering.join()
    return told


def keys():
    key = paramiko.ECDSAKey.generate(bits=256)
    return [key.get_name(), key.verify_ssh_sig(b"text", paramiko.Message(key.sign_ssh_data(b"text").asbytes()))]


def handler(event, context):
    return globals()[event["case"]]()
