"""Types of what applications are given, for annotations."""

from typing import Optional, Protocol, runtime_checkable


@runtime_checkable
class Aborted(Protocol):
    """`environ["ringway.aborted"]`: the reading side of a `threading.Event`.

    Set when the request was given up: its client or web server has left, or `request_timeout` has passed.
    """

    def is_set(self) -> bool: ...

    def __bool__(self) -> bool: ...

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Waits until the request is over, `timeout` seconds at most. Whether it was given up: False also where its
        answer was taken whole."""
        ...
