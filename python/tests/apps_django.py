"""A Django project of one file, with the pages of flaskapp.py that every framework can have."""

import hashlib

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.views.decorators.csrf import csrf_exempt

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    # Uploads of this size go through a file.
    FILE_UPLOAD_MAX_MEMORY_SIZE=1000,
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware", "django.middleware.common.CommonMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="for the tests",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)


def text(content):
    return HttpResponse(content, content_type="text/plain; charset=utf-8")


def index(request):
    return text("index at %s" % reverse("index"))


def where(request, name):
    there = reverse("where", args=["x"])
    return text("%s %s %s" % (name, there, request.build_absolute_uri(there)))


def go(request):
    return HttpResponseRedirect(reverse("index"))


@csrf_exempt
def form(request):
    return text("%s|%s|%s" % (request.POST["name"], request.POST.get("other"), request.GET.get("q")))


@csrf_exempt
def upload(request):
    file = request.FILES["file"]
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    return text("%s %d %s" % (file.name, file.size, digest.hexdigest()))


def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return text(str(request.session["visits"]))


urlpatterns = [
    path("", index, name="index"),
    path("where/<path:name>", where, name="where"),
    path("go", go),
    path("form", form),
    path("upload", upload),
    path("visits", visits),
]

app = get_wsgi_application()
