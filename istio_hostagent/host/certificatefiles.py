"""Certificates and credentials as far as root looks at them: names, links and dates, no content.

    STATE/certs/NAME          one store for each directory of OUTPUT_CERTS, of istio-proxy
    STATE/certs/NAME.output   a link that says which directory that is, root's
    STATE/certs/current       the same for the one in use, for the secret server

So a directory that is not used any more can be given back, at purge by a shell script as well.
Not here: the files themselves (`credentials`, for workers alone).
"""

import binascii
import os

from ..config import model
from . import files, processes, sights

_STORES = "certs"
OUTPUT = ".output"
CURRENT = "current"
_KEY = "key.pem"
# The links in the directory of OUTPUT_CERTS, and the one that is swapped below them.
_DATA = "..data"
_NAMES = (_KEY, "cert-chain.pem", "root-cert.pem", _DATA)


class CertificateFiles:
    """Those of one state directory."""

    def __init__(self, state_dir: str, seen: sights.Sights) -> None:
        """Name the directory; nothing is made yet."""
        self._sights = seen
        self._stores = os.path.join(state_dir, _STORES)
        own = (model.MOUNTED, model.CERTIFICATE)
        self._own = tuple(os.path.join(state_dir, name) for name in own)

    def keep_out(self, output_dir: str) -> None:
        """From now on leave what lies in a directory of OUTPUT_CERTS to istio-proxy."""
        self._sights.keep_out(output_dir)

    def fingerprint(self, path: str) -> object:
        """What changes when a file, or a directory on the way, is replaced or opened."""
        # In a directory of istio-proxy's it may be a link below one that is swapped.
        data = os.path.join(os.path.dirname(path), _DATA)
        swapped = self._sights.fingerprint(data) if self._sights.is_entry(path) else None
        modes = tuple(map(self._sights.mode, _above(path)))
        return self._sights.fingerprint(path), swapped, modes

    def has_key(self, output_dir: str) -> bool:
        """Whether a key lies in a directory of OUTPUT_CERTS, or may lie there."""
        path = os.path.join(output_dir, _KEY)
        is_known = self._sights.is_known(path)
        return not is_known or self._sights.fingerprint(path, follows_link=False) is not None

    def watched(self, output_dir: str) -> tuple[str, ...]:
        """The files to be watched."""
        return tuple(os.path.join(output_dir, name) for name in _NAMES)

    def look(self, output_dir: str) -> tuple[object, ...]:
        """What changes when one of those to be watched is replaced."""
        watched = self.watched(output_dir)
        return tuple(self._sights.fingerprint(path, follows_link=False) for path in watched)

    def make_store(self, output_dir: str, owner: processes.User) -> str:
        """Return the store of a directory of OUTPUT_CERTS, made if need be; raises OSError.

        The one that is the agent's own is made as well: where it lies only root can make it.
        """
        if output_dir in self._own:
            files.make_directory(output_dir, owner=(owner.uid, owner.gid))
        store = find_store(os.path.dirname(self._stores), output_dir)
        link = store + OUTPUT
        files.make_directory(self._stores)
        if not os.path.islink(link):
            os.symlink(output_dir, link)
        files.make_directory(store, owner=(owner.uid, owner.gid))
        self._point_at(output_dir)
        return store

    def _point_at(self, output_dir: str) -> None:
        current = os.path.join(self._stores, CURRENT)
        if os.path.islink(current) and os.readlink(current) == output_dir:
            return
        staged = f"{current}.new"
        files.remove(staged)
        os.symlink(output_dir, staged)
        os.replace(staged, current)

    def find_stores(self) -> tuple[tuple[str, str], ...]:
        """Give every store with its directory of OUTPUT_CERTS; raises OSError."""
        with os.scandir(self._stores) as entries:
            links = [entry.path for entry in entries if entry.name.endswith(OUTPUT)]
        return tuple((link.removesuffix(OUTPUT), os.readlink(link)) for link in links)

    def remove_store(self, store: str) -> None:
        """Remove a store that has been emptied; raises OSError."""
        os.unlink(store + OUTPUT)
        os.rmdir(store)


def find_store(state_dir: str, output_dir: str) -> str:
    """Where the store of a directory of OUTPUT_CERTS lies."""
    return os.path.join(state_dir, _STORES, f"{binascii.crc32(output_dir.encode()):08x}")


def _above(path: str) -> list[str]:
    """Every directory on the way to a file."""
    found = []
    while (above := os.path.dirname(path)) != path:
        found.append(above)
        path = above
    return found
