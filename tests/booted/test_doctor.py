"""`doctor` on a machine: what is well, what a person breaks, and what it leaves as it was."""

import base64
import json

import pytest

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.booted.test_stay import MARKER, STOP

NAME = "istiod.istio-system.svc"
HOSTS = "/etc/hosts"
DOCTOR = ("istio-hostagent", "doctor", "--json")
# Nobody has this address.
NOBODYS = "10.200.0.99"
CUT = "table inet cut { chain out { type filter hook output priority 0; tcp dport 15012 reject with tcp reset; }; }"


@pytest.fixture
def joined(machine: machines.Machine, ca: mesh.Authority) -> machines.Machine:
    """A machine in the mesh, which finds its CA by a line of /etc/hosts."""
    with_name = f"{machine.read(HOSTS)}{network.ADDRESS} {NAME}\n"
    machine.write(HOSTS, with_name)
    mesh.provision(machine, ca)
    machine.write(
        mesh.CLUSTER_ENV, mesh.cluster_env(ca, machine.name, CA_ADDR=f"{NAME}:{ca.port}")
    )
    mesh.wait_joined(machine)
    machine.run("istio-hostagent", "reload")
    return machine


def look(machine: machines.Machine, *before: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Its exit status, and level and words by subject; of several the worst."""
    done = machine.run(*before, *DOCTOR, check=False)
    assert done.stderr == ""
    shown = json.loads(done.stdout)
    assert shown["version"] == 1
    assert shown["fine"] == (done.returncode == 0)
    found: dict[str, tuple[str, str]] = {}
    for each in shown["findings"]:
        if found.get(each["subject"], ("ok", ""))[0] in ("ok", "unseen"):
            found[each["subject"]] = (each["level"], each["words"])
        if each["level"] == "wrong":
            assert each["advice"], each
    return done.returncode, found


def state_of(machine: machines.Machine) -> str:
    """Rules without what they have counted, addresses, routes, and files with their times."""
    rules = "nft --stateless list ruleset; ip -o address show; ip rule; ip route show table all"
    show = "%p %M %U %G %T@ %l\\n"
    files = f"find /var/lib/istio-hostagent /etc -xdev -printf '{show}'"
    return machine.run("sh", "-c", f"{rules}; {files}").stdout


def wrong(found: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {subject: words for subject, (level, words) in found.items() if level == "wrong"}


def test_of_a_machine_in_the_mesh_nothing_is_wrong_and_nothing_is_changed(
    joined: machines.Machine,
) -> None:
    before = state_of(joined)
    status, found = look(joined)
    assert state_of(joined) == before
    assert (status, wrong(found)) == (0, {})
    for subject, word in {
        "unit istio-hostagent.service": "active",
        "unit istio.service": "another name",
        "unit istio-redirect.service": "active",
        "unit istio-auth-node-agent.service": "the agent keeps the certificate",
        "mesh": "in the mesh since",
        "token": "good for",
        f"name {NAME}": f"{network.ADDRESS} (/etc/hosts:",
        "CA": f"TLS as {NAME}",
        "clock": "within the validity of",
        "packet rules": "read back equal by two decoders",
        "proxy": "istio-proxy@0.service",
        "ports": "are kept for the proxy",
        "other agents": "no unit, process or rule",
    }.items():
        level, words = found[subject]
        assert level == "ok", f"{subject}: {words}"
        assert word in words
    # The form for people has the same lines.
    text = joined.run("istio-hostagent", "doctor").stdout
    assert [line.split()[0] for line in text.splitlines() if line[0] != " "].count("ok") > 12

    status, found = look(joined, "setpriv", "--reuid", "nobody", "--clear-groups")
    assert (status, wrong(found)) == (0, {})
    assert found["way to the control plane"][0] == "unseen"
    assert found["mesh"][0] == "ok"


def test_each_broken_thing_is_a_line(joined: machines.Machine, ca: mesh.Authority) -> None:
    hosts = joined.read(HOSTS)
    joined.write(HOSTS, hosts.replace(f"{network.ADDRESS} {NAME}", f"{NOBODYS} {NAME}"))
    status, found = look(joined)
    number = len(hosts.splitlines())
    assert status == 1
    assert f"({HOSTS}:{number}): no connection" in wrong(found)["CA"]
    joined.write(HOSTS, hosts)

    joined.run("nft", "-f", "-", stdin=CUT)
    assert "Connection refused" in wrong(look(joined)[1])["CA"]
    joined.run("nft", "delete", "table", "inet", "cut")

    expired = {"sub": "system:serviceaccount:a:b", "aud": ["istio-ca"], "exp": 1_600_000_000}
    body = base64.urlsafe_b64encode(json.dumps(expired).encode()).decode().rstrip("=")
    joined.write(mesh.TOKEN, f"e30.{body}.e30", mode="0600", owner="istio-proxy")
    level, words = look(joined)[1]["token"]
    assert level == "warning"
    assert "expired on 2020" in words
    assert "is shown instead" in words
    joined.write(mesh.TOKEN, ca.token(joined.name), mode="0600")  # root's alone
    level, words = look(joined)[1]["token"]
    assert level == "warning"
    assert "cannot be read by istio-proxy" in words
    joined.write(mesh.TOKEN, ca.token(joined.name), mode="0600", owner="istio-proxy")

    joined.write(mesh.CLUSTER_ENV, "ISTIO_SERVICE_CIDR=10.0.0.0/99\n")
    network.wait_until(
        lambda: "cluster.env:1" in wrong(look(joined)[1]).get("configuration", ""), "the line"
    )
    joined.write(mesh.CLUSTER_ENV, mesh.cluster_env(ca, joined.name, CA_ADDR=f"{NAME}:{ca.port}"))
    joined.run("istio-hostagent", "reload")
    assert look(joined)[0] == 0


def test_a_stopped_agent_and_a_port_that_somebody_has(joined: machines.Machine) -> None:
    joined.run(*STOP)
    # The unit that takes the tables out removes the mark behind them, later.
    network.wait_until(lambda: not joined.exists(MARKER), "the mark is gone", within_s=20)
    ended = ("pgrep", "envoy")
    network.wait_until(lambda: joined.run(*ended, check=False).returncode == 1, "Envoy has ended")
    serve = ("-p", "User=nobody", "/usr/bin/python3", "-m", "http.server", "15006")
    joined.run("systemd-run", "--quiet", "--unit=thief", *serve)
    listening = ("ss", "-Hltn", "sport", "=", ":15006")
    network.wait_until(lambda: bool(joined.run(*listening).stdout), "it listens")
    before = state_of(joined)
    status, found = look(joined)
    assert status == 1
    said = wrong(found)
    assert "no agent runs" in said["agent"]
    assert "inactive" in said["unit istio-hostagent.service"]
    assert said["ports"].startswith("15006 belongs to python3 (pid ")
    # The way is looked at all the same, and so are the rules.
    assert found["CA"][0] == "ok"
    assert "packet rules" in said
    assert state_of(joined) == before
