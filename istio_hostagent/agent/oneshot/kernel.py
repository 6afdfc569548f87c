"""The packet filter for one verb, with nobody else at work in this network namespace."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import AgentRunning, NotPermitted
from ...host import control, nftables


@contextmanager
def locked(*, within_s: float = 0.0) -> Iterator[nftables.NftKernel]:
    """Hold this namespace's lock and its packet filter; raises AgentRunning, NotPermitted.

    `within_s`: wait so long for others to end.
    """
    if os.geteuid() != 0:
        raise NotPermitted("this verb needs root (CAP_NET_ADMIN)")
    lock = control.Lock()
    try:
        if not lock.take(within_s=within_s):
            raise AgentRunning("another agent or verb works in this network namespace")
        kernel = nftables.NftKernel(is_owner=False)
        try:
            yield kernel
        finally:
            kernel.close()
    finally:
        lock.close()
