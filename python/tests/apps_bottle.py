"""A Bottle application with the pages of flaskapp.py that every framework can have."""

import hashlib
from urllib.parse import urljoin

from bottle import Bottle, redirect, request, response

app = Bottle()
SECRET = "for the tests"


@app.get("/", name="index")
def index():
    return "index at %s" % app.get_url("index")


@app.get("/where/<name:path>", name="where")
def where(name):
    there = app.get_url("where", name="x")
    return "%s %s %s" % (name, there, urljoin(request.url, there))


@app.get("/go")
def go():
    redirect(app.get_url("index"))


@app.post("/form")
def form():
    forms, query = request.forms.decode(), request.query.decode()
    return "%s|%s|%s" % (forms["name"], forms.get("other"), query.get("q"))


@app.post("/upload")
def upload():
    file = request.files["file"]
    content = file.file.read()
    return "%s %d %s" % (file.raw_filename, len(content), hashlib.sha256(content).hexdigest())


@app.get("/visits")
def visits():
    # Bottle has no sessions, but signed cookies.
    count = int(request.get_cookie("visits", default="0", secret=SECRET)) + 1
    response.set_cookie("visits", str(count), secret=SECRET, path="/")
    return str(count)
