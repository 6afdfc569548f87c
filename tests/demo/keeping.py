"""What somebody needs who looks around in a demo that was kept: scripts, and how to use them."""

import shlex
import sys
from pathlib import Path

from tests.demo import stage
from tests.lab import host


def write_scripts(member: stage.Member) -> None:
    """Put the product's command line for this host beside its files."""
    settings = [f"{name}={value}" for name, value in member.host.environment.items()]
    inside = member.namespace.argv(["env", *settings, host.PYTHON, "-m", "istio_hostagent"])
    text = f'#!/bin/sh\n# The agent\'s command line on host {member.label}.\nexec {shlex.join(inside)} "$@"\n'
    script = script_of(member)
    script.write_text(text)
    script.chmod(0o755)


def script_of(member: stage.Member) -> Path:
    """Where the command line of this host lies."""
    return member.host.directory / "istio-hostagent"


def how_to(kept: stage.Stage) -> list[tuple[str, str]]:
    """Commands to look around, as root, each with what it is for; the last one ends the demo."""
    a, b = kept.members["a"], kept.members["b"]
    url = f"http://{b.address}:{stage.PORT}/hello"
    curl = shlex.join(a.namespace.argv(["curl", "-s", url], user=stage.USER))
    inside_a = shlex.join(a.namespace.argv([]))
    inside_wire = shlex.join(kept.cluster.argv([]))
    assert b.host.agent is not None
    return [
        ("is host a in the mesh", f"{script_of(a)} status"),
        ("prove its rules again", f"{script_of(a)} verify --verbose"),
        ("every value, and its line", f"{script_of(a)} config --explain"),
        ("ask b from a", curl),
        ("see it pass b's cable", f"{inside_wire} tcpdump -A -i {b.port} port {stage.PORT}"),
        ("see the rules of a", f"{inside_a} nft list table inet istio_hostagent"),
        ("what b's agent and Envoy say", f"tail -f {b.host.log}"),
        ("change b's ports", f"sed -i 's/PORTS=.*/PORTS={stage.PORT}/' {b.host.sidecar_env}"),
        ("take b out of the mesh", f"kill {b.host.agent.pid}"),
        ("end the demo", end_command(kept.directory)),
    ]


def end_command(directory: Path) -> str:
    """The one command that takes everything away."""
    python = shlex.quote(sys.executable)
    return f"cd {shlex.quote(str(host.CHECKOUT))} && {python} -m tests.demo --end {directory}"
