from typing import Any, Callable, Dict, List, Optional, Tuple, TypedDict

__version__: str

class LoadError(Exception): ...

class Row(TypedDict):
    key: str
    flag: str
    section: str
    placeholder: str
    doc: str
    default: str
    is_list: bool
    is_switch: bool

class How(TypedDict):
    threads: int
    inline: bool
    queue_max: int
    queue_timeout: str
    slow_log: str
    stuck_max: int
    multiprocess: bool
    debug: bool
    force_cgi: bool
    signals: bool
    log: str
    log_to: str

def serve(
    application: Callable[..., Any],
    settings: List[Tuple[str, List[str]]],
    how: How,
    environ: Optional[Dict[str, Any]] = None,
    on_error: Optional[Callable[..., Tuple[int, List[Tuple[str, str]], bytes]]] = None,
) -> int: ...
class Listeners:
    drain_timeout: float
    is_spawned: bool
    def addresses(self) -> List[str]: ...
    def close(self) -> None: ...
    def remove(self) -> None: ...

class Running:
    def is_running(self) -> bool: ...
    def requests(self) -> int: ...
    def retire(self) -> None: ...
    def drain(self) -> None: ...
    def stop(self) -> None: ...
    def wait(self) -> int: ...

def bind(settings: List[Tuple[str, List[str]]], how: How) -> Listeners: ...
def start(
    application: Callable[..., Any],
    settings: List[Tuple[str, List[str]]],
    how: How,
    listeners: Listeners,
    environ: Optional[Dict[str, Any]] = None,
    on_error: Optional[Callable[..., Tuple[int, List[Tuple[str, str]], bytes]]] = None,
) -> Running: ...
def log(level: str, text: str) -> None: ...
def seconds(name: str, text: str) -> float: ...
def is_cgi(settings: List[Tuple[str, List[str]]], force: bool) -> bool: ...
def settings() -> List[Row]: ...
def read_config_file(path: str, others: List[str]) -> List[Tuple[str, List[str]]]: ...
def load(name: str) -> Callable[..., Any]: ...
