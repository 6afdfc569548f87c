"""`verify`: what is in the kernel, by two decoders and by packets, and who listens behind it."""

from collections.abc import Mapping
from typing import Any

from ...config import model
from ...errors import HostAgentError
from ...host import (
    children,
    clock,
    facts,
    glance,
    heldports,
    layers,
    mailbox,
    probing,
    processes,
    statefiles,
)
from .. import events, fields, inspection, places, prober, takeover, tasks
from . import configuration
from .kernel import locked


def perform(environment: Mapping[str, str], reading: layers.Reading) -> dict[str, Any]:
    """Read back with two decoders and send packets for every promise; as JSON value."""
    _, config, host = configuration.require(environment, reading)
    inbox: mailbox.Mailbox[events.Event] = mailbox.Mailbox()
    time = clock.SystemClock()
    work = tasks.Tasks(inbox, time, children.Processes(inbox, record=""))
    found: list[inspection.Verification] = []
    failures: list[HostAgentError] = []
    with locked(config.redirection.back_end) as kernel:
        sender = probing.Packets() if kernel.is_provable else probing.Unsent()
        packets = prober.Prober(work, time, sender)
        inspection.start(
            config,
            host,
            kernel,
            facts,
            work,
            packets,
            takeover.Takeover(work, glance.glance),
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
    return found[0]._replace(proxy=_look_at_proxy(config, host)).to_json()


def _look_at_proxy(config: model.Config, host: model.HostFacts) -> inspection.Proxy:
    """Whether anybody listens where what is captured arrives; no agent watches it here."""
    is_required = statefiles.StateFiles(host.state_dir).has(places.MARKER)
    user = processes.User(host.proxy_uid, host.proxy_gid)
    listening = heldports.HeldPorts({}, user).find_listening
    state, closed = inspection.look_at_ports(config.redirection, listening)
    last_error = ""
    if closed:
        what = "no agent runs here and this host has not joined: to run a proxy is up to you"
        if is_required:
            what = "this host has joined and no agent runs: systemctl start istio-hostagent"
        last_error = (
            f"nothing of the user {host.proxy_uid} listens on {fields.name_ports(closed)}, so"
            f" captured connections fail ({what})"
        )
    return inspection.Proxy(state, is_required, closed, last_error)
