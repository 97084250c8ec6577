"""The command `ringway`, which a wheel has in it: prints configurations, checks them, asks and conforms."""

import os
import pathlib
import sys

from ._server import fail

PROGRAM = pathlib.Path(__file__).parent / "bin/ringway"


def main() -> None:
    """Goes on as the command, with the same arguments."""
    if not PROGRAM.exists():
        fail("this package was built without the command ringway: install a wheel, or cargo install it", 1)
    os.execv(PROGRAM, sys.argv)
