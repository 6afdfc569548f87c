"""What workers answer, believed only as far as it fits: type, range and size of every field.

Some workers run as istio-proxy, and so may whoever has taken the proxy over: it can write into the
memory file of a worker's answer. So nothing of an answer is used before it was read here, once;
what is read is a frozen value. The module of this package that is called like the worker knows its
answer and is loaded with its first start: the process that starts one worker needs no other.
"""

import importlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from .checks import Wrong


class Format(NamedTuple):
    """The bounds of one worker's answer, and what reads it.

    `max_items`: lists, objects and their members; they take a hundred times the room of the text.
    `read`: from the JSON value and the request to a frozen value; raises Wrong.
    """

    max_bytes: int
    max_items: int
    read: Callable[[Any, Any], Any]


def find(worker: str) -> Format:
    """The format of this worker's answers; without one no worker can be started."""
    found: Format = importlib.import_module(f".{worker}", __package__).FORMAT
    return found


def read(known: Format, data: bytes, request: Any) -> Any:
    """Read the answer of a worker to this request; raises Wrong."""
    if len(data) > known.max_bytes:
        raise Wrong(f"it is longer than {known.max_bytes} bytes")
    if sum(map(data.count, (b"[", b"{", b","))) > known.max_items:
        raise Wrong(f"it has more than {known.max_items} parts")
    try:
        value = json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Wrong("it is no JSON") from error
    return known.read(value, request)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
