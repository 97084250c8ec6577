"""The frameworks' applications with wsgiref between them and the server: what either does wrong is an error."""

from wsgiref.validate import validator

import apps_bottle
import apps_django
import apps_pyramid
import flaskapp


def by_length(application):
    """Werkzeug calls `read()` where the input is terminated, which the validator forbids to applications."""

    def without(environ, start_response):
        del environ["wsgi.input_terminated"]
        return application(environ, start_response)

    return without


django = validator(apps_django.app)
bottle = validator(apps_bottle.app)
pyramid = validator(apps_pyramid.app)
flask = validator(by_length(flaskapp.app))
