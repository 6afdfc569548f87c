"""Directories of OUTPUT_CERTS that are not used any more are given back.

Where they and their stores lie is `host.certificatefiles`; a worker that runs as istio-proxy gives
them back.
"""

import functools
import logging
from typing import Any

from ..errors import HostAgentError
from ..host import ports, processes
from . import fields, issuance, tasks

logger = logging.getLogger(__name__)


def release_others(
    work: tasks.Tasks, files: ports.CertificateFiles, output_dir: str, user: processes.User
) -> None:
    """Begin to give all other output directories back; what cannot be found is left as it is."""
    try:
        found = files.find_stores()
    except OSError as error:
        logger.warning("nothing given back", extra=fields.of(DETAIL=str(error)))
        return
    for store, other in found:
        if other == output_dir or work.is_running(_release(other)):
            continue
        work.start_worker(
            "certificate",
            {"op": "release", "output_dir": other, "store_dir": store},
            name=_release(other),
            user=user,
            timeout_s=issuance.TIMEOUT_S,
            done=functools.partial(_released, files, store, other),
        )


def stop_release(work: tasks.Tasks, output_dir: str) -> None:
    """This directory is wanted again: end what may be giving it back, wherever it is in that."""
    work.abandon(_release(output_dir))


def _release(output_dir: str) -> str:
    return f"release {output_dir}"


def _released(files: ports.CertificateFiles, store: str, output: str, answer: Any) -> None:
    if isinstance(answer, HostAgentError) or answer.error is not None:
        detail = str(answer) if isinstance(answer, HostAgentError) else answer.error.message
        logger.warning("%s not given back", output, extra=fields.of(DETAIL=detail))
        return
    try:
        files.remove_store(store)
    except OSError as error:
        logger.warning("%s not removed", store, extra=fields.of(DETAIL=error.strerror))
    logger.info("%s given back: OUTPUT_CERTS is another directory now", output)
