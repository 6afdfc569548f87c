"""From exec to the first certificate with proven rules, and to in the mesh, each on a fresh host.

CPU until the rules are proven is measured with a stand-in for Envoy (a shell that accepts every
bootstrap): Envoy's own check of the bootstrap would otherwise be in it. The agent is killed the
moment it says so, and wait4(2) then counts it and every worker that it has waited for.
"""

import http.client
import os
import time
from collections import defaultdict
from pathlib import Path

from tests.lab.host import proxy_user

from . import agentlog, cost, rows, site

KEYS = ("first-cpu", "first-wall", "joined", "joined-cpu")
ROUNDS = 7
STATUS_PORT = 15021
_POLL_S = 0.002


def measure(here: site.Site) -> dict[str, rows.Result]:
    """Rows first-cpu, first-wall, joined, joined-cpu. Raises NotMeasured, LabError."""
    found = defaultdict[str, list[float]](list)
    troubles: list[str] = []
    for number in range(ROUNDS + 1):
        round_found = {**_first_certificate(here), **_in_mesh(here, troubles)}
        round_found["bare"] = cost.run([cost.PYTHON, "-c", "pass"]).cpu_ms
        for name, value in round_found.items() if number else ():
            found[name].append(value)
    bare = {"python3 -c pass": found["bare"]}
    seconds = {name: [value / 1000.0 for value in found[name]] for name in ("joined", "alone")}
    return {
        "first-cpu": rows.make_result(
            found["first-cpu"],
            bare,
            (
                "agent and the workers it waited for, by wait4; with a shell in Envoy's place,"
                " its two short runs included; the other budget, 0.8 x a peer that does rules"
                " and certificate, is not measured: pilot-agent is not in Debian",
            ),
        ),
        "first-wall": rows.make_result(found["first-wall"]),
        "joined": rows.make_result(
            seconds["joined"],
            {"Envoy alone, same bootstrap and certificate": seconds["alone"]},
            [f"while joining, an agent said: {trouble}" for trouble in troubles],
        ),
        "joined-cpu": rows.make_result(
            found["joined-cpu"], {"Envoy's check alone": found["check"]}
        ),
    }


def _first_certificate(here: site.Site) -> dict[str, float]:
    with here.host() as host:
        host.start(has_envoy=False)
        wall = host.wait_for(site.PROVEN)
        cpu = host.kill()
        if not (host.directory / "certs" / "cert-chain.pem").exists():
            raise cost.NotMeasured("the rules were proven before there was a certificate")
        return {"first-wall": wall, "first-cpu": cpu}


def _in_mesh(here: site.Site, troubles: list[str]) -> dict[str, float]:
    with here.host() as host:
        host.start(has_envoy=True)
        found = {"joined": host.wait_for(site.IN_MESH)}
        troubles += host.log.complaints()
        proxy = find_proxy(host)
        argv, directory, environment = _invocation(proxy)
        found["joined-cpu"] = host.kill()
        site.wait_for_end(proxy)  # it dies with its agent, and leaves its ports to the peer
        uid, gid = proxy_user()
        user = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--pdeathsig=KILL"]
        start = [cost.SETPRIV, *user, "--", "/usr/bin/env", "--chdir", directory, *argv]
        found["alone"] = host.namespace.inside(lambda: _until_ready(start, environment))
        check = [cost.SETPRIV, *user, "--", *argv, "--mode", "validate"]
        found["check"] = host.namespace.inside(lambda: cost.run(check, environment)).cpu_ms
        return found


def find_proxy(host: site.Host) -> int:
    """The Envoy of a host in the mesh: its agent's only child with that binary."""
    for child in site.children_of(host.pid):
        if Path(os.readlink(f"/proc/{child}/exe")).name == "envoy":
            return child
    raise cost.NotMeasured("the agent says that it is in the mesh and has no Envoy")


def _invocation(pid: int) -> tuple[list[str], str, dict[str, str]]:
    """Arguments, working directory and environment of a running process (proc(5))."""
    argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")[:-1]
    environment = dict(pair.split("=", 1) for pair in pairs)
    return argv, os.readlink(f"/proc/{pid}/cwd"), environment


def _until_ready(argv: list[str], environment: dict[str, str]) -> float:
    """How long a proxy takes from exec until it says that it is ready, in ms; it is ended."""
    began = cost.now_ms()
    pid = cost.spawn(argv, environment)
    try:
        while not _is_ready():
            if cost.now_ms() - began > agentlog.PATIENCE_S * 1000.0:
                raise cost.NotMeasured("Envoy alone did not become ready")
            # Nothing tells of another process's readiness but asking.
            time.sleep(_POLL_S)
        return cost.now_ms() - began
    finally:
        cost.kill(pid)


def _is_ready() -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", STATUS_PORT, timeout=1.0)
    try:
        connection.request("GET", "/healthz/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
