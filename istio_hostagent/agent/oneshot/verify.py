"""`verify`: what is in the kernel, by two decoders and by packets, and who listens behind it."""

from collections.abc import Mapping
from typing import Any

from ...config import model
from ...errors import HostAgentError
from ...host import (
    deviceprobing,
    facts,
    glance,
    heldports,
    layers,
    probing,
    processes,
    statefiles,
)
from .. import fields, inspection, places, takeover
from . import configuration, errands
from .kernel import locked


def perform(environment: Mapping[str, str], reading: layers.Reading) -> dict[str, Any]:
    """Read back with two decoders and send a packet for every expectation; as JSON value."""
    _, config, host = configuration.require(environment, reading)
    found: list[inspection.Verification] = []
    failures: list[HostAgentError] = []
    with locked(config.redirection.back_end) as kernel:
        sender = probing.Packets() if kernel.is_provable else deviceprobing.Packets()
        under_way = errands.Errands(sender)
        inspection.start(
            config,
            host,
            kernel,
            facts,
            under_way.work,
            under_way.packets,
            takeover.Takeover(under_way.work, glance.glance),
            done=found.append,
            failed=failures.append,
        )
        under_way.wait(lambda: found or failures)
        under_way.packets.close()
    if failures:
        raise failures[0]
    return found[0]._replace(proxy=_look_at_proxy(config, host)).to_json()


def _look_at_proxy(config: model.Config, host: model.HostFacts) -> inspection.Proxy:
    """Whether anybody listens where what is captured arrives; no agent watches it here."""
    is_required = statefiles.StateFiles(host.state_dir).has(places.MARKER)
    user = processes.User(host.proxy_uid, host.proxy_gid)
    listening = heldports.HeldPorts({}, user).find_listening
    state, closed = inspection.look_at_ports(config, listening)
    last_error = ""
    if closed:
        what = "no agent runs here and this host has not joined: to run a proxy is up to you"
        if is_required:
            what = "this host has joined and no agent runs: systemctl start istio-hostagent"
        last_error = (
            f"nothing of the user {host.proxy_uid} listens on {fields.name_ports(closed)}, so"
            f" {'captured ' if config.redirection.captures else ''}connections fail ({what})"
        )
    return inspection.Proxy(state, is_required, closed, last_error)
