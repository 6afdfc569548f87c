"""The act of renewal: new certificates on both hosts while requests go on."""

import contextlib
import subprocess
import threading
import time

from tests.demo import asking, evidence, stage
from tests.lab import host, servers

BEFORE, AFTER = 300, 600  # requests before and after the renewal
CLIENTS = 2


def renew_under_traffic(show: asking.Show) -> None:
    """New certificates on both hosts while requests go on, each on a connection of its own."""
    show.out.chapter("6  New certificates while requests go on")
    members = (show.a, show.b)
    old = {member.label: serial(member) for member in members}
    target = servers.Target(
        show.b.address,
        stage.PORT,
        servers.render_request(show.b.address, asking.SECRET),
        timeout_s=30.0,
    )
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        flows = [
            stack.enter_context(
                servers.Traffic(
                    show.a.namespace, target, needle="200 OK", interval_s=0.0, user=stage.USER
                )
            )
            for _ in range(CLIENTS)
        ]
        show.out.step(f"a asks b, {CLIENTS} clients, a new connection for every request")
        show.b.app.wait_accepted(show.b.app.accepted() + BEFORE, timeout_s=120.0)
        renewed = renew_all(show, members)
        new = {member.label: serial(member) for member in members}
        for member in members:
            wait_for_serial(member, new[member.label])
            show.out.step(
                f"{member.label}: serial {short(old[member.label])} before,"
                f" {short(new[member.label])} now, and its Envoy shows it"
            )
        show.b.app.wait_accepted(show.b.app.accepted() + AFTER, timeout_s=120.0)
        tallies = [flow.stop() for flow in flows]
    made = sum(tally.made for tally in tallies)
    failed = sum(tally.failed for tally in tallies)
    slowest = max(tally.slowest_s for tally in tallies)
    rate = made / (time.monotonic() - began)
    show.out.step(
        f"{made - failed} requests answered, {failed} failed; {rate:.0f} a second,"
        f" slowest {slowest * 1000:.0f} ms"
    )
    for tally in tallies:
        for failure in tally.failures[:2]:
            show.out.note(f"failed: {failure['outcome']} {failure['error']}")
    is_new = all(old[label] != new[label] for label in old)
    show.held(
        "certificates renewed, no request fails",
        renewed and is_new and failed == 0,
        f"{made - failed} answered, {failed} failed, {rate:.0f} a second",
    )


def renew_all(show: asking.Show, members: tuple[stage.Member, ...]) -> bool:
    """Run `istio-hostagent renew` on the hosts at the same time; say whether all succeeded."""
    done: dict[str, subprocess.CompletedProcess[str]] = {}

    def renew(member: stage.Member) -> None:
        done[member.label] = member.host.verb("renew", is_checked=False)

    show.out.step("on both: istio-hostagent renew")
    threads = [threading.Thread(target=renew, args=(member,)) for member in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(host.VERB_TIME_S)
    for label, result in done.items():
        if result.returncode:
            show.out.note(f"{label}: {result.stderr.strip()}")
    return len(done) == len(members) and not any(each.returncode for each in done.values())


def serial(member: stage.Member) -> str:
    """The serial number that the agent reports, in hexadecimal."""
    return str(member.host.status()["certificate"]["serial"])


def wait_for_serial(member: stage.Member, wanted: str) -> None:
    """Wait until this host's Envoy shows itself with this certificate and no other."""
    evidence.wait_until(
        f"the Envoy of {member.label} takes its new certificate",
        lambda: evidence.held_serials(member.host) == {int(wanted, 16)},
    )


def short(number: str) -> str:
    """The beginning of a serial number."""
    return f"{number[:8]}.."
