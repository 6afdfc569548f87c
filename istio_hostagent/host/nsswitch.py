"""Whether programs of this host ask systemd-resolved for names without sending a query.

That is so where nsswitch.conf(5) has `resolve` (nss-resolve(8)) take what it does not find for
final: a program then speaks to the service by a unix socket, and no rule for packets ever sees it.
Not here: what that means for names of the mesh.
"""

import os
import re
import socket

PATH = "/etc/nsswitch.conf"
# Where the module asks (systemd, src/nss-resolve/nss-resolve.c). Where nobody listens, the next
# source is asked; the socket itself stays when the service is stopped.
_SOCKET = "/run/systemd/resolve/io.systemd.Resolve"
_LIBRARIES = "/usr/lib"
_MODULE = "libnss_resolve.so.2"
_HOSTS = re.compile(r"^\s*hosts\s*:([^#\n]*)", re.MULTILINE)
_WORD = re.compile(r"\[[^]]*\]|[^\s\[]+")
_ACTION = re.compile(r"(!?)(\w+)=(\w+)")


def asks_resolved() -> bool:
    """Whether a name that systemd-resolved does not know is asked of nobody else, as of now."""
    try:
        with open(PATH, encoding="utf-8", errors="replace") as lines:
            text = lines.read()
    except OSError:
        return False
    return is_final(text) and _has_module() and _is_listening()


def is_final(text: str) -> bool:
    """Whether nsswitch.conf has no name server asked for what `resolve` does not find."""
    found = _HOSTS.findall(text)
    words: list[str] = _WORD.findall(found[-1]) if found else []
    sources = [word for word in words if word in ("resolve", "dns")]
    if sources[:1] != ["resolve"]:
        return False
    behind = words[words.index("resolve") + 1 :]
    action = _on_not_found(behind[0]) if behind and behind[0].startswith("[") else "continue"
    return action == "return" or "dns" not in sources


def _on_not_found(actions: str) -> str:
    """What `[STATUS=ACTION ...]` says of a name that is not found; `!` is every other status."""
    found = "continue"
    for is_other, status, action in _ACTION.findall(actions.lower()):
        if (status == "notfound") is not bool(is_other):
            found = action
    return found


def _has_module() -> bool:
    """Whether the library is there, in the directory of any architecture."""
    try:
        names = os.listdir(_LIBRARIES)
    except OSError:
        return False
    directories = ("", *(name for name in names if "-linux-" in name))
    return any(os.path.exists(os.path.join(_LIBRARIES, each, _MODULE)) for each in directories)


def _is_listening() -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            connection.connect(_SOCKET)
    except BlockingIOError:
        return True  # its queue is full
    except OSError:
        return False
    return True
