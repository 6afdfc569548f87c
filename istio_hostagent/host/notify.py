"""systemd's notification socket and descriptor store (sd_notify(3), sd_listen_fds(3)).

Outside systemd every call does nothing. Who decides what to say is not here.
"""

import contextlib
import os
import socket
from collections.abc import Mapping

import sdnotify

# The first descriptor that systemd passes (SD_LISTEN_FDS_START).
FIRST_DESCRIPTOR = 3


class Notifier:
    """One service's line to its manager. It never waits: what is not taken is sent again."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Take the socket's name from NOTIFY_SOCKET of `environment`."""
        self._socket = sdnotify.SystemdNotifier().socket if is_told(environment) else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self._unsent: dict[str, str] = {}

    def close(self) -> None:
        """Say nothing any more."""
        if self._socket is not None:
            self._socket.close()

    @property
    def is_behind(self) -> bool:
        """Whether the manager has not taken everything yet: `flush` a little later."""
        return bool(self._unsent)

    def send(self, **fields: str) -> None:
        """Send assignments such as READY="1" or STATUS="text"; one line each."""
        if self._socket is not None:
            self._unsent |= fields
            self.flush()

    def store(self, name: str, descriptor: int) -> None:
        """Give systemd a descriptor to keep over restarts and crashes.

        Raises OSError if it was not taken: who counts on it has to know, and to try again.
        """
        if self._socket is not None:
            # FDPOLL=0: systemd drops a socket with an error pending, and with it went the rules.
            message = f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0"
            socket.send_fds(self._socket, [message.encode()], [descriptor])

    def forget(self, name: str) -> None:
        """Have the descriptors of a name kept no longer; what is not taken is not sent again.

        One that stays with the manager is handed to the next process, which looks at it.
        """
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(f"FDSTOREREMOVE=1\nFDNAME={name}".encode())

    def flush(self) -> None:
        """Send what has not been taken; a manager that is not there any more gets nothing."""
        if self._socket is None or not self._unsent:
            return
        lines = (f"{key}={' '.join(value.split())}" for key, value in self._unsent.items())
        try:
            self._socket.send("\n".join(lines).encode())
        except BlockingIOError:
            return  # the manager's queue is full
        except OSError:
            pass
        self._unsent = {}


def is_told(environment: Mapping[str, str]) -> bool:
    """Whether a service manager has started this process and wants to hear of it.

    Nomad hands on to its tasks what its own manager has told it, which is about itself:
    SYSTEMD_EXEC_PID says of whom (systemd.exec(5), from 248 on).
    """
    started = environment.get("SYSTEMD_EXEC_PID", "")
    return bool(environment.get("NOTIFY_SOCKET")) and started in ("", str(os.getpid()))


def has_store(environment: Mapping[str, str]) -> bool:
    """Whether the manager keeps descriptors for us: $FDSTORE (systemd.exec(5), from 254 on).

    Our unit sets the variable itself, for systemd 252.
    """
    number = environment.get("FDSTORE", "")
    return is_told(environment) and number.isdigit() and int(number) > 0


def take_stored(environment: Mapping[str, str]) -> dict[str, socket.socket]:
    """Return the stored sockets by name; whatever else systemd passed is closed."""
    found = {}
    for name, descriptor in _inherited(environment).items():
        try:
            found[name] = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
    return found


def _inherited(environment: Mapping[str, str]) -> dict[str, int]:
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    count = int(environment.get("LISTEN_FDS", "0"))
    found: dict[str, int] = {}
    for offset in range(count):
        descriptor = FIRST_DESCRIPTOR + offset
        os.set_inheritable(descriptor, False)
        name = names[offset] if offset < len(names) else str(offset)
        if name in found:  # the store did not hear that the one before is not to be kept
            os.close(found[name])
        found[name] = descriptor
    return found


def watchdog_interval_s(environment: Mapping[str, str]) -> float | None:
    """Half the time systemd waits for a sign of life; None where it does not wait.

    Source: sd_watchdog_enabled(3).
    """
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    usec = int(environment.get("WATCHDOG_USEC", "0"))
    return usec / 2e6 if usec else None
