"""Where the command's options come from: defaults, then the file, then the environment, then the arguments."""

import argparse
import os
from typing import Any, Dict, List

from . import _ringway

_TRUE, _FALSE = ("true", "on", "yes", "1"), ("false", "off", "no", "0")
#: Settings of the engine, by their `dest`. It reads its variables itself.
_PREFIX = "setting_"


def parse(parser: argparse.ArgumentParser, arguments: List[str]) -> argparse.Namespace:
    """`parser.parse_args`, where what the arguments do not say comes from elsewhere. ValueError says what cannot be."""
    options = parser.parse_args(arguments)
    path = options.config or os.environ.get("RINGWAY_CONFIG")
    own = {
        action.dest: action
        for action in parser._actions
        if action.option_strings and action.dest not in ("help", "version", "config") and not is_setting(action.dest)
    }
    found: Dict[str, Any] = {}
    if path:
        for key, values in _ringway.read_config_file(path, list(own)):
            if key in own:
                found[key] = _value(parser, own[key], "%s: %s" % (path, key), values)
            elif "RINGWAY_" + key.upper() not in os.environ:
                found[_PREFIX + key] = values
    for key, action in own.items():
        text = os.environ.get("RINGWAY_" + key.upper())
        if text is not None:
            found[key] = _value(parser, action, "environment variable RINGWAY_" + key.upper(), [text])
    if not found:
        return options
    # Lists of arguments would be appended to those of the file.
    lists = {name: value for name, value in found.items() if name.startswith(_PREFIX)}
    parser.set_defaults(**{name: value for name, value in found.items() if name not in lists})
    options = parser.parse_args(arguments)
    for name, value in lists.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def is_setting(dest: str) -> bool:
    return dest.startswith(_PREFIX)


def _value(parser: argparse.ArgumentParser, action: argparse.Action, origin: str, texts: List[str]) -> Any:
    """What the option would be, given as an argument."""
    try:
        if action.nargs == 0:
            (text,) = texts
            if text not in _TRUE + _FALSE:
                raise ValueError("neither true nor false")
            return text in _TRUE
        values = [parser._get_value(action, text) for text in texts]
        for value in values:
            parser._check_value(action, value)
        if isinstance(action, argparse._AppendAction):
            return values
        (value,) = values
        return value
    except (ValueError, argparse.ArgumentError) as error:
        text = "%s = %r: %s" % (origin, ", ".join(texts), getattr(error, "message", error))
        raise ValueError(text) from None
