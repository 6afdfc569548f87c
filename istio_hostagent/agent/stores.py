"""Where the certificates lie that the links in a directory of OUTPUT_CERTS lead to.

    STATE/certs/NAME          one store for each such directory, of istio-proxy
    STATE/certs/NAME.output   a link that says which directory that is, root's

So a directory that is not used any more can be given back, at purge by a shell script as well.
"""

import binascii
import os

from ..host import files

_STORES = "certs"
_OUTPUT = ".output"


def make(state_dir: str, output_dir: str, owner: tuple[int, int]) -> str:
    """Return the store of an output directory, made if it is not there; raises OSError."""
    store = _path(state_dir, output_dir)
    link = store + _OUTPUT
    files.make_directory(os.path.dirname(store))
    if not os.path.islink(link):
        os.symlink(output_dir, link)
    files.make_directory(store, owner=owner)
    return store


def find_others(state_dir: str, output_dir: str) -> dict[str, str]:
    """Return the stores of all other output directories, and those; raises OSError."""
    directory = os.path.join(state_dir, _STORES)
    own = _path(state_dir, output_dir)
    links = (os.path.join(directory, name) for name in os.listdir(directory))
    return {
        link.removesuffix(_OUTPUT): os.readlink(link)
        for link in links
        if link.endswith(_OUTPUT) and link != own + _OUTPUT
    }


def remove(store: str) -> None:
    """Forget a store that has been emptied; raises OSError."""
    os.rmdir(store)
    os.unlink(store + _OUTPUT)


def _path(state_dir: str, output_dir: str) -> str:
    name = f"{binascii.crc32(output_dir.encode()):08x}"
    return os.path.join(state_dir, _STORES, name)
