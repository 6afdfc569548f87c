"""`verify`: what is in the kernel, by two decoders and by packets."""

from collections.abc import Mapping
from typing import Any

from ...errors import HostAgentError
from ...host import children, clock, facts, layers, mailbox, probing
from .. import events, inspection, prober, reconcile, tasks
from . import configuration
from .kernel import locked


def perform(environment: Mapping[str, str], reading: layers.Reading) -> dict[str, Any]:
    """Read back with two decoders and send packets for every promise; as JSON value."""
    _, config, host = configuration.require(environment, reading)
    inbox: mailbox.Mailbox[events.Event] = mailbox.Mailbox()
    time = clock.SystemClock()
    work = tasks.Tasks(inbox, time, children.Processes(inbox, record=""))
    packets = prober.Prober(work, time, probing.Packets())
    found: list[inspection.Verification] = []
    failures: list[HostAgentError] = []
    with locked() as kernel:
        inspection.start(
            config,
            host,
            reconcile.Reconciler(kernel),
            facts,
            work,
            packets,
            done=found.append,
            failed=failures.append,
        )
        while not found and not failures:
            soon = time.monotonic() + 1.0
            due_at = min(at for at in (soon, packets.deadline()) if at is not None)
            for event in inbox.wait(max(due_at - time.monotonic(), 0.0)):
                if isinstance(event, events.TaskEnded):
                    work.ended(event.name)
            work.tick()
            packets.tick()
        work.cancel()
        packets.close()
    if failures:
        raise failures[0]
    return found[0].to_json()
