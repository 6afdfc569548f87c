"""The packet rules for one verb, with nobody else at work in this network namespace."""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ...config.model import BackEnd
from ...errors import AgentRunning, HostAgentError, NotPermitted, Unconfirmed
from ...host import (
    control,
    instances,
    legacytables,
    nftables,
    nftpresence,
    norules,
    ports,
)
from ...redirect import model
from .. import backends, reconcile

_Answer = TypeVar("_Answer")


class Held(backends.BackEnds):
    """The rules of this network namespace for one verb, and nf_tables itself."""

    def __init__(
        self, kernel: nftables.NftKernel | None, refusal: str, *, can_change: bool = True
    ) -> None:
        """`kernel`: none if nf_tables is refused, `refusal` says how."""
        native = reconcile.Reconciler(kernel) if kernel is not None else None
        super().__init__(
            native,
            refusal,
            _make_legacy,
            legacytables.has_any,
            none=norules.NoRules(),
            can_change=can_change,
        )
        self._kernel = kernel

    def require_kernel(self) -> nftables.NftKernel:
        """Give nf_tables, for what can be done there alone; raises Unconfirmed."""
        if self._kernel is None or self.kind is not backends.Kind.NFTABLES or self.has_leftover():
            raise Unconfirmed(
                "rules in legacy tables do not go back by themselves",
                hint=f"without --confirm-within, or with {backends.KEY}=nftables and after clean",
            )
        return self._kernel


@contextmanager
def locked(wanted: BackEnd = BackEnd.AUTO, *, within_s: float = 0.0) -> Iterator["Held"]:
    """Hold this namespace's lock, and give its rules; raises AgentRunning, NotPermitted.

    `within_s`: wait so long for others to end. Rules that an agent with a name finds are another
    agent's, and not looked at.
    """
    is_apart = bool(instances.own())
    if os.geteuid() != 0 and not is_apart:
        raise NotPermitted("this verb needs root (CAP_NET_ADMIN)")
    lock = control.Lock()
    try:
        if not lock.take(within_s=within_s):
            raise AgentRunning("another agent or verb works in this network namespace")
        can_change = not is_apart and norules.may_change()
        sock, refusal = nftpresence.open_socket() if can_change else (None, "no right to")
        kernel = nftables.NftKernel(sock, is_owner=False) if sock is not None else None
        try:
            made = Held(kernel, refusal, can_change=can_change)
            made.choose(BackEnd.NONE if is_apart else wanted)
            yield made
        finally:
            if kernel is not None:
                kernel.close()
    finally:
        lock.close()


def ask(
    method: Callable[[model.Ruleset, Callable[[_Answer | HostAgentError], None]], None],
    desired: model.Ruleset,
) -> _Answer:
    """Ask something of the rules of a verb, which answer at once; raises HostAgentError."""
    found: list[_Answer | HostAgentError] = []
    method(desired, found.append)
    (answer,) = found
    if isinstance(answer, HostAgentError):
        raise answer
    return answer


def _make_legacy() -> ports.PacketRules:
    """Load what only legacy tables need."""
    made: ports.PacketRules = importlib.import_module(".legacy", __package__).make()
    return made
