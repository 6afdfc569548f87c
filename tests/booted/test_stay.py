"""Who leaves the mesh and who stays: stop, restart, crash, reboot, and the guard in between."""

import pytest

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.lab import facts

MARKER = "/var/lib/istio-hostagent/joined"
UNIT = "istio-hostagent.service"
BROKEN = "[Service]\nExecStart=\nExecStart=/bin/false\n"
WATCHDOG = "[Service]\nWatchdogSec=6s\n"
STOP = ("systemctl", "stop", "istio-hostagent")
# Rejects at once (status 7 of curl), where a captured connection would wait or succeed.
REFUSED = 7
# Requests of the program that starts with the network.
EARLY = 30


@pytest.fixture
def joined(machine: machines.Machine, ca: mesh.Authority) -> machines.Machine:
    """A machine that joined after the first start of its agent, and therefore of the guard."""
    mesh.join(machine, ca)
    return machine


def test_a_stop_leaves_no_rule_and_a_working_network(
    machine: machines.Machine, ca: mesh.Authority, cluster: network.Cluster
) -> None:
    before = mesh.network_state(machine)
    mesh.join(machine, ca)
    assert mesh.network_state(machine) != before
    machine.run(*STOP)

    # systemd stops the guard when the agent is gone, and systemctl does not wait for that.
    network.wait_until(lambda: not mesh.table_names(machine), "the guard is gone", within_s=20)
    network.wait_until(lambda: not machine.exists(MARKER), "the mark is gone", within_s=20)
    assert mesh.network_state(machine) == before
    ended = ("pgrep", "envoy")
    network.wait_until(lambda: machine.run(*ended, check=False).returncode == 1, "Envoy has ended")
    assert machine.run("curl", "-sSI", f"http://{network.ADDRESS}/").returncode == 0
    assert cluster.ssh(machine.address, "true").returncode == 0


def test_after_a_stop_joining_is_a_transaction_again(
    joined: machines.Machine, ca: mesh.Authority
) -> None:
    joined.run(*STOP)
    joined.write(mesh.TOKEN, "not a token", owner="istio-proxy")
    joined.run("rm", "-rf", "/var/lib/istio-hostagent/certs", "/etc/certs/..data")
    # systemd stops the guard when the agent is gone, and the mark is the last that it takes.
    network.wait_until(lambda: not joined.exists(MARKER), "the mark is gone", within_s=20)
    before = mesh.network_state(joined)
    joined.run("systemctl", "start", "istio-hostagent")
    assert joined.run("istio-hostagent", "wait", "--timeout", "3", check=False).returncode != 0
    assert mesh.network_state(joined) == before


@pytest.mark.parametrize("act", ["restart", "kill"])
def test_a_restart_and_a_crash_never_take_the_rules_out(
    joined: machines.Machine, peer: machines.Machine, act: str
) -> None:
    handle = _table_handle(joined)
    before = joined.unit(UNIT, "MainPID")
    if act == "restart":
        joined.run("systemctl", "restart", UNIT)
    else:
        joined.run("kill", "-KILL", before["MainPID"])
        network.wait_until(lambda: _runs_again(joined, before["MainPID"]), "the agent is back")
    mesh.wait_joined(joined)
    assert _table_handle(joined) == handle, "the table is another one"
    assert joined.exists(MARKER)
    assert mesh.ask(joined, peer.address).status == 0


def test_a_night_of_upgrades_restarts_it_more_often_than_systemd_takes_of_others(
    joined: machines.Machine, peer: machines.Machine
) -> None:
    """needrestart asks for one restart after each package that unattended-upgrades installs."""
    handle = _table_handle(joined)
    for _ in range(8):
        joined.run("systemctl", "restart", UNIT)
    mesh.wait_joined(joined)
    assert _table_handle(joined) == handle, "the table is another one"
    assert mesh.ask(joined, peer.address).status == 0


def test_another_hostname_changes_nothing(
    joined: machines.Machine, peer: machines.Machine
) -> None:
    before = joined.unit(UNIT, "MainPID"), _table_handle(joined)
    joined.write("/etc/hostname", "another-name\n")
    joined.run("hostname", "another-name")
    joined.run("istio-hostagent", "renew")
    joined.run("istio-hostagent", "reload")
    mesh.wait_joined(joined)
    assert mesh.ask(joined, peer.address).status == 0
    assert (joined.unit(UNIT, "MainPID"), _table_handle(joined)) == before
    joined.reboot()
    mesh.wait_joined(joined)
    assert mesh.ask(joined, peer.address).status == 0


def test_a_reboot_stays_in_and_is_closed_from_the_start(
    joined: machines.Machine, peer: machines.Machine
) -> None:
    _watch_early(joined, peer.address)
    # Without its token: a machine that has joined needs none.
    joined.reboot()

    network.wait_until(lambda: len(_seen_early(joined)) == EARLY, "the early program has ended")
    facts.never("0" in _seen_early(joined), "a plain request was answered")
    assert str(REFUSED) in _seen_early(joined), "it was too late to meet the guard"
    assert joined.unit("istio-redirect.service", "ActiveState")["ActiveState"] == "active"
    mesh.wait_joined(joined)
    assert mesh.ask(joined, peer.address).status == 0


def test_a_power_cut_stays_in(joined: machines.Machine, peer: machines.Machine) -> None:
    joined.crash()
    joined.boot()
    mesh.wait_joined(joined)
    assert mesh.ask(joined, peer.address).status == 0


@pytest.mark.parametrize("has_saved_rules", [False, True], ids=["alone", "beside saved rules"])
def test_the_guard_holds_while_no_agent_can(
    joined: machines.Machine,
    peer: machines.Machine,
    cluster: network.Cluster,
    has_saved_rules: bool,
) -> None:
    # A reboot on which the agent cannot start: only the guard is there.
    if has_saved_rules:  # by `nft list ruleset`, from a day on which nothing was captured
        joined.write("/etc/nftables.conf", "flush ruleset\ntable inet istio_guard {\n}\n")
        joined.run("systemctl", "enable", "--quiet", "nftables.service")
    joined.write("/etc/systemd/system/istio-hostagent.service.d/break.conf", BROKEN)
    joined.reboot()
    assert mesh.table_names(joined) == ["istio_guard"]
    with mesh.wiretap(joined) as captured:
        answer = mesh.ask(joined, peer.address)
    facts.never(peer.address.encode() in captured.read_bytes(), "a plain request has left")
    assert answer.status == REFUSED
    assert cluster.ssh(joined.address, "true").returncode == 0
    assert joined.run("curl", "-sSI", f"http://{network.ADDRESS}/").returncode == 0


@pytest.mark.parametrize("verb", ["restart", "stop"])
def test_the_guard_is_not_stopped_by_hand(
    joined: machines.Machine, peer: machines.Machine, verb: str
) -> None:
    refused = joined.run("systemctl", verb, "istio-redirect", check=False)
    assert "may be requested by dependency only" in refused.stderr
    assert joined.exists(MARKER)
    assert mesh.table_names(joined) == ["istio_guard", "istio_hostagent"]


def test_rescue_mode_leaves_the_network_to_the_operator_until_the_next_boot(
    joined: machines.Machine, peer: machines.Machine
) -> None:
    joined.run("systemctl", "isolate", "--no-block", "rescue.target")
    network.wait_until(lambda: not mesh.table_names(joined), "the rules are out")
    network.wait_until(lambda: _active(joined, "rescue.target"), "rescue mode")
    _watch_early(joined, peer.address)
    joined.reboot()
    network.wait_until(lambda: len(_seen_early(joined)) == EARLY, "the early program has ended")
    facts.never("0" in _seen_early(joined), "a plain request was answered")
    mesh.wait_joined(joined)


def test_an_agent_that_was_stopped_by_a_signal_is_replaced_by_its_watchdog(
    joined: machines.Machine,
) -> None:
    before = joined.unit(UNIT, "MainPID", "WatchdogUSec")
    assert before["WatchdogUSec"] == "1min"
    joined.write("/etc/systemd/system/istio-hostagent.service.d/w.conf", WATCHDOG)
    joined.run("systemctl", "daemon-reload")
    joined.run("systemctl", "restart", UNIT)
    mesh.wait_joined(joined)
    stopped = joined.unit(UNIT, "MainPID")["MainPID"]
    joined.run("kill", "-STOP", stopped)
    # SIGABRT would wait for it to go on, TimeoutStopSec=30s long.
    network.wait_until(lambda: _runs_again(joined, stopped), "another one")
    mesh.wait_joined(joined)


def test_a_stop_in_a_crash_loop_takes_the_machine_out(joined: machines.Machine) -> None:
    joined.write("/etc/systemd/system/istio-hostagent.service.d/break.conf", BROKEN)
    joined.run("systemctl", "daemon-reload")
    joined.run("systemctl", "kill", "-s", "KILL", UNIT)
    network.wait_until(
        lambda: int(joined.unit(UNIT, "NRestarts")["NRestarts"]) > 1, "the agent crash-loops"
    )
    assert mesh.table_names(joined), "a crash loop stays in"
    joined.run(*STOP)
    network.wait_until(lambda: not mesh.table_names(joined), "nothing is left", within_s=20)
    # The unit that takes the tables out removes the mark behind them.
    network.wait_until(lambda: not joined.exists(MARKER), "the mark is gone", within_s=20)


def test_a_machine_that_was_stopped_boots_without_a_guard(
    joined: machines.Machine, peer: machines.Machine
) -> None:
    joined.run(*STOP)
    network.wait_until(lambda: not mesh.table_names(joined), "the guard is gone", within_s=20)
    joined.run("systemctl", "disable", "--quiet", "istio-hostagent")
    joined.reboot()
    assert mesh.table_names(joined) == []


def test_a_machine_that_never_joined_has_no_guard(machine: machines.Machine) -> None:
    assert machine.unit("istio-redirect.service", "ActiveState")["ActiveState"] == "active"
    assert mesh.table_names(machine) == []
    machine.reboot()
    assert machine.unit("istio-redirect.service", "ActiveState")["ActiveState"] == "active"
    assert mesh.table_names(machine) == []


def _active(machine: machines.Machine, unit: str) -> bool:
    return machine.unit(unit, "ActiveState")["ActiveState"] == "active"


def _runs_again(machine: machines.Machine, killed: str) -> bool:
    unit = machine.unit(UNIT, "MainPID", "ActiveState")
    return unit["ActiveState"] == "active" and unit["MainPID"] not in ("0", killed)


def _table_handle(machine: machines.Machine) -> str:
    """The number that the kernel gave the table when it was made."""
    listing = machine.run("nft", "--handle", "list", "table", "inet", "istio_hostagent").stdout
    # table inet istio_hostagent { # handle 1 progname istio-hostagent
    return listing.splitlines()[0].partition("# handle ")[2].split()[0]


def _seen_early(machine: machines.Machine) -> list[str]:
    return machine.read("/var/lib/early").split()


def _watch_early(machine: machines.Machine, address: str) -> None:
    """From as early as the network is up, try plain requests and note curl's status of each."""
    script = (
        "for attempt in $(seq %d); do curl -s --max-time 1 -o /dev/null http://%s:%d/; "
        "echo $? >> /var/lib/early; done"
    )
    machine.write("/opt/early.sh", script % (EARLY, address, mesh.PLAIN_PORT))
    machine.write(
        "/etc/systemd/system/early.service",
        "[Unit]\nDefaultDependencies=no\nAfter=network-pre.target\n"
        "[Service]\nUser=nobody\nExecStart=/bin/sh /opt/early.sh\n"
        "[Install]\nWantedBy=sysinit.target\n",
    )
    machine.run("install", "-o", "nobody", "/dev/null", "/var/lib/early")
    machine.run("systemctl", "enable", "--quiet", "early.service")


READY = "http://127.0.0.1:15021/healthz/ready"
# Notes, every 20 ms, what readiness says and whether the rules are there.
NOTE = (
    "while :; do r=$(curl -s -o /dev/null -w '%%{http_code}' --max-time 10 %s);"
    " nft list table inet istio_hostagent >/dev/null 2>&1 && t=in || t=out;"
    " echo $r $t; sleep 0.02; done > /run/noted"
)


@pytest.mark.parametrize("act", ["stop", "restart"])
def test_a_stop_drains_and_a_restart_does_not(joined: machines.Machine, act: str) -> None:
    joined.write("/opt/note.sh", NOTE % READY)
    joined.write("/run/noted", "")
    joined.run("systemd-run", "--quiet", "--unit=note", "/bin/sh", "/opt/note.sh")
    network.wait_until(lambda: "200 in" in joined.read("/run/noted"), "it serves")
    joined.run("systemctl", act, UNIT)
    joined.run("systemctl", "stop", "note")
    noted = joined.read("/run/noted").splitlines()
    if act == "restart":
        assert "503 in" not in noted
        assert "000 out" not in noted
        return
    # No, while the rules are in; then these go, and at last the proxy.
    assert noted.count("503 in") > 2
    assert "000 in" not in noted
    last_no = max(number for number, line in enumerate(noted) if line.startswith("503"))
    assert all(line.endswith("out") for line in noted[last_no + 1 :])
