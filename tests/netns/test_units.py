"""Units that are left alone, on a real host with a real agent: by packets, from real control groups.

Who got a connection is told by its server: what goes through the proxy comes from another port.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from istio_hostagent.config import model
from istio_hostagent.redirect import drift, exchange, policy
from istio_hostagent.redirect import model as rules
from tests.lab import groups, layers, netns
from tests.lab.host import PYTHON, Host
from tests.lab.servers import Kind, Server
from tests.lab.waiting import eventually
from tests.netns.conftest import CLUSTER, MakeHost, configure
from tests.netns.rig import FACTS, Rig
from tests.unit.samples import STANDARD

APPLICATION = 1500
PORT = 8000
CLIENT = """
import json, socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) as sock:
        sock.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        said = b"".join(iter(lambda: sock.recv(4096), b""))
        peer = json.loads(said.partition(b"\\r\\n\\r\\n")[2])["peer"]
        print("direct" if peer[1] == sock.getsockname()[1] else "captured")
except OSError as error:
    print(type(error).__name__)
"""
JOIN = 'echo $$ > "$0/cgroup.procs"; exec "$@"'


@pytest.fixture
def top() -> Iterator[groups.ControlGroup]:
    layers.require("netns", groups.missing())
    with groups.ControlGroup(is_slice=True) as made:
        yield made


@pytest.fixture
def unit(top: groups.ControlGroup) -> str:
    return f"{top.name}-app.service"


@pytest.fixture
def host(make_host: MakeHost, envoy: str, unit: str) -> Host:
    """A host that leaves a unit alone, with a server elsewhere; it has not joined yet."""
    made = make_host(envoy=envoy)
    made.wrapper = groups.SEEING
    made.write_hostagent(
        ISTIO_HOSTAGENT_ENVOY=envoy,
        ISTIO_HOSTAGENT_EXCLUDE_UNITS=unit,
    )
    configure(made)
    return made


@pytest.fixture
def cluster_server(cluster: netns.Network) -> Iterator[Server]:
    with Server(cluster, Kind.HTTP, CLUSTER, PORT) as made:
        yield made


def ask(host: Host, group: Path | None = None) -> str:
    """Connect as an application, from a control group or from that of the tests."""
    argv = host.namespace.argv([PYTHON, "-c", CLIENT, CLUSTER, str(PORT)], user=APPLICATION)
    if group is not None:
        argv = ["sh", "-c", JOIN, str(group), *argv]
    return subprocess.run(
        argv, capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()


def test_a_unit_goes_around_and_all_others_through_also_after_it_was_restarted(
    host: Host, top: groups.ControlGroup, unit: str, cluster_server: Server
) -> None:
    other = top.make(f"{top.name}-other.service")
    host.start()
    host.verb("wait", "--timeout", "60")
    assert host.status()["redirection"]["excluded_units"] == {unit: ""}
    for _ in range(3):
        group = top.make(unit)
        # Until the rule is there the unit is captured as others are, and never refused.
        seen: list[str] = []

        def is_direct(group: Path = group, seen: list[str] = seen) -> bool:
            seen.append(ask(host, group))
            return seen[-1] == "direct"

        eventually(is_direct, "the unit goes around")
        assert {*seen[:-1]} <= {"captured"}
        assert ask(host, top.make(f"{unit}/part")) == "direct", "and what is below it"
        assert ask(host, other) == "captured"
        assert ask(host) == "captured"
        assert host.status()["redirection"]["excluded_units"] == {unit: top.path_of(unit)}
        top.remove(unit)
    status = host.status()
    assert status["in_mesh"], status
    assert "changed by somebody else" not in host.log_text()
    assert "degraded" not in host.log_text()
    assert host.verb("verify").returncode == 0


def test_an_included_unit_never_goes_around_and_others_do(
    make_host: MakeHost, envoy: str, top: groups.ControlGroup, unit: str, cluster_server: Server
) -> None:
    host = make_host(envoy=envoy)
    host.wrapper = groups.SEEING
    host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, ISTIO_HOSTAGENT_INCLUDE_UNITS=unit)
    configure(host)
    host.start()
    host.verb("wait", "--timeout", "60")
    for _ in range(3):
        group = top.make(unit)
        other = top.make(f"{top.name}-other.service")
        seen: list[str] = []

        def is_direct(other: Path = other, seen: list[str] = seen) -> bool:
            seen.append(ask(host, other))
            return seen[-1] == "direct"

        assert ask(host, group) == "captured", "from its first packet on"
        eventually(is_direct, "the other unit goes around")
        assert {*seen[:-1]} <= {"captured"}
        assert ask(host, group) == "captured"
        top.remove(unit)
        top.remove(other.name)
    assert host.status()["in_mesh"], host.status()

    def is_gone() -> bool:
        return bool(host.status()["redirection"]["included_units"] == {unit: ""})

    eventually(is_gone, "the unit is seen to be gone")
    assert "changed by somebody else" not in host.log_text()
    assert "degraded" not in host.log_text()
    assert host.verb("verify").returncode == 0


def test_explain_says_what_becomes_of_a_unit_that_runs(
    host: Host, top: groups.ControlGroup, unit: str
) -> None:
    words = ("explain", "tcp", f"{CLUSTER}:{PORT}", "--json", "--from-unit")
    missing = host.verb(*words, unit, is_checked=False)
    assert missing.returncode == 64
    assert f"{unit} has no control group now" in missing.stderr
    top.make(f"{unit}/part")
    for name in (unit, top.path_of(f"{unit}/part")):
        found = json.loads(host.verb(*words, name).stdout)
        assert found["verdict"] == "direct"
        assert found["decision"].endswith(f"an excluded unit ({unit})")
        assert [each["key"] for each in found["settings"]] == ["ISTIO_HOSTAGENT_EXCLUDE_UNITS"]
    found = json.loads(host.verb(*words, top.path.name).stdout)
    assert found["verdict"] == "proxy"
    refused = host.verb(*words, unit, "--live", is_checked=False)
    assert refused.returncode == 64


def test_what_a_killed_agent_left_is_captured_and_said_to_differ(
    host: Host, top: groups.ControlGroup, unit: str, cluster_server: Server
) -> None:
    group = top.make(unit)
    host.start()
    host.verb("wait", "--timeout", "60")
    assert ask(host, group) == "direct"
    host.kill()
    assert ask(host, group) == "direct"
    assert ask(host) == "ConnectionRefusedError"
    top.remove(unit)
    group = top.make(unit)
    assert ask(host, group) == "ConnectionRefusedError", "it is another group"
    done = host.verb("verify", "--json", is_checked=False)
    assert done.returncode == 1
    assert "ISTIO_OUTPUT" in str(json.loads(done.stdout)["differences"])
    host.start()
    host.verb("wait", "--timeout", "60")
    assert ask(host, group) == "direct"


def test_rules_of_apply_know_the_units_that_run(
    host: Host, top: groups.ControlGroup, unit: str
) -> None:
    host.verb("apply")
    assert host.verb("apply").stdout.startswith("nothing to do")
    top.make(unit)
    planned = host.verb("plan").stdout
    assert "group" in planned
    assert host.verb("apply").stdout == planned
    assert host.verb("apply").stdout.startswith("nothing to do")
    top.remove(unit)
    top.make(unit)
    assert host.verb("plan").stdout != ""
    host.verb("clean")


# -- legacy tables --------------------------------------------------------------------------------


@pytest.fixture
def legacy(make_host: MakeHost, envoy: str, unit: str) -> Host:
    """The same host, where legacy tables have the rules."""
    made = make_host(envoy=envoy)
    made.wrapper = groups.SEEING
    made.write_hostagent(
        ISTIO_HOSTAGENT_ENVOY=envoy,
        ISTIO_HOSTAGENT_BACKEND="legacy",
        ISTIO_HOSTAGENT_EXCLUDE_UNITS=unit,
    )
    configure(made)
    return made


def assert_others_commit(host: Host) -> None:
    """Let another tool change each of the tables that rules of ours are in."""
    for table in ("nat", "filter", "mangle", "raw"):
        argv = ["iptables-legacy", "-w", "-t", table, "-A", "OUTPUT", "-p", "254", "-j", "ACCEPT"]
        host.namespace.run(argv, check=True)


def test_a_unit_that_has_ended_keeps_nobody_from_changing_legacy_tables(
    legacy: Host, top: groups.ControlGroup, unit: str
) -> None:
    legacy.verb("apply")
    top.make(unit)
    refused = legacy.verb("apply", is_checked=False)
    assert refused.returncode != 0
    assert "legacy tables cannot do what is configured" in refused.stderr
    top.remove(unit)
    assert_others_commit(legacy)
    legacy.verb("clean")


def test_an_agent_with_legacy_tables_captures_the_unit_and_says_so(
    legacy: Host, top: groups.ControlGroup, unit: str, cluster_server: Server
) -> None:
    legacy.start()
    legacy.verb("wait", "--timeout", "60")
    group = top.make(unit)

    def is_said() -> bool:
        return "units are not left alone: legacy tables" in legacy.status()["summary"]

    eventually(is_said, "the agent says so")
    assert ask(legacy, group) == "captured"
    assert legacy.status()["in_mesh"]
    top.remove(unit)
    assert_others_commit(legacy)
    assert "redirection not installed" not in legacy.log_text()


# -- both decoders --------------------------------------------------------------------------------


def desired_for(path: Path, top: groups.ControlGroup) -> rules.Ruleset:
    name = top.path_of(path.name)
    group = model.ControlGroup(name, name, path.stat().st_ino)
    owners = model.Owners(units=model.Units((name,)), users_exclude=(7,))
    redirection = STANDARD._replace(owners=owners, dns=model.Dns(is_captured=True))
    return policy.build_ruleset(redirection, FACTS._replace(control_groups=(group,)))


def test_both_decoders_read_what_was_written_and_see_another_number(
    rig: Rig, top: groups.ControlGroup
) -> None:
    one, two = (desired_for(top.make(name), top) for name in ("one", "two"))
    with rig.kernel() as kernel:
        rig.apply(kernel, one)
        observed = rig.observe(kernel)
        answer = rig.worker("second_reader", {"addresses": list(one.loopback_addresses)})
        read = [observed, exchange.from_json(answer["observed"])]
        where = os.environ.get("HOSTAGENT_OTHER_PYROUTE2", "")
        if Path(where, "pyroute2").is_dir():
            addresses = {"addresses": list(one.loopback_addresses)}
            answer = rig.worker("second_reader", addresses, PYTHONPATH=where)
            read.append(exchange.from_json(answer["observed"]))
        for found in read:
            assert drift.find_drift(one, found) == ()
            assert any("cgroupv2" in str(each) for each in drift.find_drift(two, found))
        rig.apply(kernel, rules.Ruleset())
