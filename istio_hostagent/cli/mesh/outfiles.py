"""Files for a host, written on the administrator's machine, whole; secrets are private."""

import os
from collections.abc import Mapping

from ...errors import HostAgentError, describe
from ...host import files

# Whoever has one of these is the host.
SECRETS = frozenset({"key.pem", "istio-token"})


class NotWritten(HostAgentError):
    """A file could not be written where the operator wants it."""

    code = "not-written"
    exit_status = 73


def write(directory: str, texts: Mapping[str, bytes]) -> None:
    """Write files by name into a directory, which is made if it is not there.

    Raises NotWritten. Secrets are readable for the caller alone from their first byte on.
    """
    place = os.path.abspath(directory)
    try:
        os.makedirs(place, exist_ok=True)
    except OSError as error:
        raise NotWritten(f"{place} cannot be made: {describe(error)}") from error
    for name, data in texts.items():
        path = os.path.join(place, name)
        try:
            files.write_atomically(path, data, mode=0o600 if name in SECRETS else 0o644)
        except OSError as error:
            _discard(f"{path}.new")
            raise NotWritten(f"{path} cannot be written: {describe(error)}") from error


def _discard(path: str) -> None:
    try:
        files.remove(path)
    except OSError:
        return
