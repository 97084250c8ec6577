"""A Pyramid application with the pages of flaskapp.py that every framework can have."""

import hashlib

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response
from pyramid.session import SignedCookieSessionFactory


def index(request):
    return Response("index at %s" % request.route_path("index"))


def where(request):
    name = request.matchdict["name"]
    return Response(
        "%s %s %s" % (name, request.route_path("where", name="x"), request.route_url("where", name="x"))
    )


def go(request):
    return HTTPFound(request.route_url("index"))


def form(request):
    return Response("%s|%s|%s" % (request.POST["name"], request.POST.get("other"), request.GET.get("q")))


def upload(request):
    file = request.POST["file"]
    content = file.file.read()
    return Response("%s %d %s" % (file.filename, len(content), hashlib.sha256(content).hexdigest()))


def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return Response(str(request.session["visits"]))


VIEWS = {
    "index": ("/", index),
    "where": ("/where/{name:.*}", where),
    "go": ("/go", go),
    "form": ("/form", form),
    "upload": ("/upload", upload),
    "visits": ("/visits", visits),
}

with Configurator(session_factory=SignedCookieSessionFactory("for the tests")) as config:
    for name, (pattern, view) in VIEWS.items():
        config.add_route(name, pattern)
        config.add_view(view, route_name=name)
    app = config.make_wsgi_app()
