"""The handlers as a Flask application, for gunicorn and granian."""

import time

from flask import Flask, request

app = Flask(__name__)


@app.get("/hello")
def hello():
    return "hello"


@app.get("/sleep")
def sleep():
    time.sleep(0.01)
    return "hello"


@app.post("/json")
def json():
    return request.get_json()


@app.post("/upload")
def upload():
    return str(len(request.get_data()))


@app.get("/download")
def download():
    return bytes(int(request.args["bytes"]))
