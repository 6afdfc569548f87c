"""Where the certificates lie that the links in a directory of OUTPUT_CERTS lead to.

    STATE/certs/NAME          one store for each such directory, of istio-proxy
    STATE/certs/NAME.output   a link that says which directory that is, root's

So a directory that is not used any more can be given back, at purge by a shell script as well.
"""

import binascii
import functools
import logging
import os
from typing import Any

from ..errors import HostAgentError
from ..host import files, processes
from . import fields, issuance, tasks

logger = logging.getLogger(__name__)

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


def release_others(
    work: tasks.Tasks, state_dir: str, output_dir: str, user: processes.User
) -> None:
    """Begin to give all other output directories back; raises OSError."""
    own = _path(state_dir, output_dir) + _OUTPUT
    with os.scandir(os.path.dirname(own)) as entries:
        links = [entry.path for entry in entries if entry.name.endswith(_OUTPUT)]
    for link in links:
        if link == own or work.is_running(_release(link)):
            continue
        store, other = link.removesuffix(_OUTPUT), os.readlink(link)
        work.start_worker(
            "certificate",
            {"op": "release", "output_dir": other, "store_dir": store},
            name=_release(link),
            user=user,
            timeout_s=issuance.TIMEOUT_S,
            done=functools.partial(_released, store, other),
        )


def stop_release(work: tasks.Tasks, state_dir: str, output_dir: str) -> None:
    """This directory is wanted again: end what may be giving it back, wherever it is in that."""
    work.abandon(_release(_path(state_dir, output_dir) + _OUTPUT))


def _release(link: str) -> str:
    return f"release {os.path.basename(link)}"


def _released(store: str, output: str, answer: Any) -> None:
    if isinstance(answer, HostAgentError) or answer.trouble is not None:
        detail = str(answer) if isinstance(answer, HostAgentError) else answer.trouble.message
        logger.warning("%s not given back", output, extra=fields.of(DETAIL=detail))
        return
    try:
        os.unlink(store + _OUTPUT)
        os.rmdir(store)
    except OSError as error:
        logger.warning("%s not removed", store, extra=fields.of(DETAIL=error.strerror))
    logger.info("%s given back: OUTPUT_CERTS is another directory now", output)


def _path(state_dir: str, output_dir: str) -> str:
    name = f"{binascii.crc32(output_dir.encode()):08x}"
    return os.path.join(state_dir, _STORES, name)
