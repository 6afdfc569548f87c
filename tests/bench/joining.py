"""From exec to the first certificate with proven rules, and to in the mesh, each on a fresh host.

CPU until the rules are proven is measured with a stand-in for Envoy (a shell that accepts every
bootstrap), on both sides: Envoy's own would otherwise be in it. Who is measured is killed the
moment it is there, and wait4(2) then counts it and every child that it has waited for. Everybody
has the same CA: a real istiod where there is one, else the demo's.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.lab.host import proxy_user

from . import budgets, cost, files, istio, readiness, rows, site
from .host import IN_MESH, PROVEN, Host, Proxy
from .peerhost import PeerHost

KEYS = ("first-cpu", "first-wall", "joined-pilot", "joined", "joined-cpu", "pilot-ready")
ROUNDS = 9
_ALONE = "Envoy alone, same bootstrap and certificate"
_SHIPPED = "rules as its start script does; pilot-agent"
_BARE = "python3 -c pass"

_Found = defaultdict[str, list[float]]


def measure(here: site.Site, programs: istio.Programs | rows.Missing) -> rows.Outcomes:
    """All rows of KEYS. Raises NotMeasured, LabError."""
    authority = here.demo
    if not isinstance(programs, rows.Missing):
        authority, programs = here.start_istiod(programs)
    found: _Found = defaultdict(list)
    complaints: list[str] = []
    for number in range(ROUNDS + 1):
        seen = {**_first_certificate(here, authority), **_joined(here, authority, complaints)}
        if not isinstance(programs, rows.Missing):
            tuned = istio.tuned_rules(programs, files.STANDARD)
            shipped = istio.shipped_rules(programs, files.STANDARD)
            seen |= _first_certificate_of_peer(here, authority, programs, tuned, "tuned")
            seen |= _first_certificate_of_peer(here, authority, programs, shipped, "shipped")
            seen |= _joined_with_pilot(here, authority, programs)
            seen |= _joined_peer(here, authority, programs)
        seen["bare"] = cost.run([cost.PYTHON, "-c", "pass"]).cpu_ms
        for name, value in seen.items() if number else ():
            found[name].append(value)
    return _results(found, programs, complaints)


def _results(
    found: _Found, programs: istio.Programs | rows.Missing, complaints: list[str]
) -> rows.Outcomes:
    def of_peer(name: str) -> list[float] | rows.Missing:
        return programs if isinstance(programs, rows.Missing) else found[name]

    said = [f"while joining, an agent said: {line}" for line in complaints]
    outcomes: dict[str, rows.Result | rows.Missing] = {
        "first-cpu": rows.make_result(
            found["first-cpu"],
            {
                budgets.TUNED_PEER: of_peer("tuned-first-cpu"),
                _SHIPPED: of_peer("shipped-first-cpu"),
                _BARE: found["bare"],
            },
            (
                "with a shell in Envoy's place on both sides; ours includes its two short runs,"
                " theirs the setpriv(1) that starts it; the peer proves nothing with packets",
            ),
        ),
        "first-wall": rows.make_result(
            found["first-wall"],
            {
                budgets.TUNED_PEER: of_peer("tuned-first-wall"),
                _SHIPPED: of_peer("shipped-first-wall"),
            },
        ),
        "joined": rows.make_result(
            found["joined"],
            {budgets.TUNED_PEER: of_peer("peer-joined"), _ALONE: found["alone"]},
            ["certificate from the CA of the peer, no control plane behind Envoy", *said],
        ),
        "joined-cpu": rows.make_result(
            found["joined-cpu"], {"Envoy's check alone": found["check"]}
        ),
    }
    if isinstance(programs, rows.Missing):
        return {**outcomes, "joined-pilot": programs, "pilot-ready": programs}
    return {
        **outcomes,
        "joined-pilot": rows.make_result(
            found["joined-pilot"],
            {
                budgets.TUNED_PEER: found["peer-joined"],
                "pilot-agent alone, without rules": found["peer-ready"],
            },
        ),
        "pilot-ready": rows.make_result(found["pilot-ready"]),
    }


def _first_certificate(here: site.Site, authority: site.Authority) -> dict[str, float]:
    with Host(here, authority) as host:
        host.start(Proxy.STAND_IN)
        wall = host.wait_for(PROVEN)
        cpu = host.kill()
        if not host.has_certificate:
            raise cost.NotMeasured("the rules were proven before there was a certificate")
        return {"first-wall": wall, "first-cpu": cpu}


def _first_certificate_of_peer(
    here: site.Site,
    authority: site.Authority,
    programs: istio.Programs,
    rules: Sequence[list[str]],
    name: str,
) -> dict[str, float]:
    with PeerHost(here, authority, programs) as peer:
        peer.start(here.stand_in, rules)
        wall = peer.wait_for_certificate()
        return {f"{name}-first-wall": wall, f"{name}-first-cpu": peer.kill()}


def _joined(here: site.Site, authority: site.Authority, complaints: list[str]) -> dict[str, float]:
    with Host(here, authority) as host:
        host.start(Proxy.ENVOY)
        found = {"joined": host.wait_for(IN_MESH) / 1000.0}
        complaints += host.log.complaints()
        again = _Invocation(host.find("envoy"))
        found["joined-cpu"] = host.end_all()
        found["alone"] = again.until_ready(host)
        check = [*_as_proxy_user(), *again.argv, "--mode", "validate"]
        found["check"] = host.place.run(check, again.environment).cpu_ms
        return found


def _joined_with_pilot(
    here: site.Site, authority: site.Authority, programs: istio.Programs
) -> dict[str, float]:
    with Host(here, authority, programs=programs) as host:
        host.start(Proxy.PILOT_AGENT)
        joined = host.wait_for(IN_MESH) / 1000.0
        again = _Invocation(host.find("pilot-agent"))
        host.end_all()
        return {"joined-pilot": joined, "pilot-ready": again.until_ready(host)}


def _joined_peer(
    here: site.Site, authority: site.Authority, programs: istio.Programs
) -> dict[str, float]:
    with PeerHost(here, authority, programs) as peer:
        peer.start(here.envoy, istio.tuned_rules(programs, files.STANDARD))
        joined = peer.wait_ready()
        return {
            "peer-joined": joined / 1000.0,
            "peer-ready": (joined - peer.rules.wall_ms) / 1000.0,
        }


def _as_proxy_user() -> list[str]:
    uid, gid = proxy_user()
    return [cost.SETPRIV, f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--"]


class _Invocation:
    """How a process was started, for starting the same again."""

    def __init__(self, pid: int) -> None:
        """`pid`: a running process (proc(5))."""
        self.argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")[:-1]
        self.environment = dict(pair.split("=", 1) for pair in pairs)
        self.directory = os.readlink(f"/proc/{pid}/cwd")

    def until_ready(self, host: Host) -> float:
        """Seconds from its exec until it says that it is ready; it is ended."""
        argv = [*_as_proxy_user(), *self.argv]
        with cost.Said() as said:
            began, pid = host.place.spawn(
                argv, self.environment, directory=self.directory, output=said.descriptor
            )
            try:
                return (readiness.wait_ready(host.place, said) - began) / 1000.0
            finally:
                host.place.end_all(pid)
