"""A Flask application as people write them."""

import hashlib
import os
import time

from flask import Flask, redirect, request, send_file, session, stream_with_context, url_for

app = Flask(__name__)
app.secret_key = "for the tests"


@app.get("/")
def index():
    return "index at %s" % url_for("index")


@app.get("/where/<path:name>")
def where(name):
    return "%s %s %s" % (name, url_for("where", name="x"), url_for("where", name="x", _external=True))


@app.get("/quoted/<path:name>")
def quoted(name):
    return url_for("quoted", name=name)


@app.get("/style")
def style():
    return url_for("static", filename="style.css")


@app.get("/go")
def go():
    return redirect(url_for("index"))


@app.post("/form")
def form():
    return "%s|%s|%s" % (request.form["name"], request.form.get("other"), request.args.get("q"))


@app.post("/upload")
def upload():
    file = request.files["file"]
    digest, length = hashlib.sha256(), 0
    while block := file.stream.read(1 << 20):
        digest.update(block)
        length += len(block)
    return "%s %d %s" % (file.filename, length, digest.hexdigest())


@app.post("/raw")
def raw():
    digest, length = hashlib.sha256(), 0
    while block := request.stream.read(1 << 16):
        digest.update(block)
        length += len(block)
    return "%d %s" % (length, digest.hexdigest())


@app.get("/stream")
def stream():
    @stream_with_context
    def rows():
        for number in range(3):
            yield "%s %d\n" % (request.args["name"], number)
            time.sleep(float(request.args.get("seconds", 0)))

    return rows(), {"Content-Type": "text/plain", "X-Accel-Buffering": "no"}


@app.get("/visits")
def visits():
    session["visits"] = session.get("visits", 0) + 1
    return str(session["visits"])


@app.get("/file")
def file():
    return send_file(__file__, mimetype="text/x-python", conditional=True)


@app.get("/wrapped")
def wrapped():
    answer = send_file(__file__, conditional=False)
    is_the_servers = isinstance(answer.response, request.environ["wsgi.file_wrapper"])
    answer.close()
    return str(is_the_servers)


@app.get("/pid")
def pid():
    time.sleep(float(request.args.get("seconds", 0)))
    return str(os.getpid())


@app.get("/fails")
def fails():
    raise RuntimeError("as it may happen")


@app.get("/environ/<name>")
def environ(name):
    return str(request.environ.get(name))
