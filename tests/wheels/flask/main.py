"""A Flask application behind a bridge from ASGI to WSGI, served under the function's own URL."""

from a2wsgi import WSGIMiddleware
from flask import Flask, jsonify, request, url_for

site = Flask(__name__)


@site.get("/")
def index():
    return jsonify(here=url_for("index"), there=url_for("twice", number=4))


@site.get("/twice/<int:number>")
def twice(number):
    return jsonify(twice=2 * number, query=request.args.get("q"))


@site.post("/form")
def form():
    return jsonify(fields=request.form.to_dict())


@site.errorhandler(404)
def nothing(error):
    return f"nothing at {request.path}", 404


app = WSGIMiddleware(site)
