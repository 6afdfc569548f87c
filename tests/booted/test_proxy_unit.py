"""The proxy in a unit of its own: whatever becomes of the agent, no request is lost."""

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.booted import cluster as network
from tests.booted import load, mesh, names, versions
from tests.booted import machine as machines
from tests.booted.conftest import Disks, Start
from tests.lab import facts

AGENT = "istio-hostagent.service"
UNIT = "istio-proxy@0.service"


Act = Callable[[machines.Machine], object]
Pair = tuple[machines.Machine, machines.Machine]


@pytest.fixture
def joined(machine: machines.Machine, ca: mesh.Authority) -> machines.Machine:
    """A machine in the mesh, whose proxy is Envoy."""
    load.serve(machine)
    mesh.join(machine, ca)
    return machine


@pytest.fixture
def other(start: Start, installed: Disks) -> machines.Machine:
    """A Debian 13 machine that serves."""
    made = start("trixie", "other", layers=installed("trixie"))
    load.serve(made)
    return made


@pytest.fixture(params=["envoy", "pilot-agent"])
def pair(
    request: pytest.FixtureRequest,
    machine: machines.Machine,
    other: machines.Machine,
    ca: mesh.Authority,
) -> Pair:
    """A machine in the mesh, by either proxy, and another one; with Envoy that is in it, too."""
    load.serve(machine)
    if request.param == "envoy":
        mesh.join(machine, ca)
        mesh.join(other, ca)
        return machine, other
    agent = request.getfixturevalue("pilot_agent")
    names.install_istio(machine, agent, agent.with_name("envoy_bootstrap.json"))
    changed = {"ISTIO_SERVICE_CIDR": mesh.MESH, "ISTIO_META_DNS_CAPTURE": "false"}
    names.provision(machine, request.getfixturevalue("control"), **changed)
    mesh.wait_joined(machine, within_s=60)
    return machine, other


def proxy_of(machine: machines.Machine) -> str:
    """The process of the proxy, by the service manager."""
    return machine.unit(UNIT, "MainPID")["MainPID"]


def restart(machine: machines.Machine) -> None:
    machine.run("systemctl", "restart", AGENT)


def kill(machine: machines.Machine) -> None:
    before = machine.unit(AGENT, "MainPID")["MainPID"]
    machine.run("kill", "-KILL", before)
    network.wait_until(
        lambda: machine.unit(AGENT, "MainPID")["MainPID"] not in ("0", before), "another agent"
    )


def test_whatever_becomes_of_the_agent_no_request_is_lost(
    pair: Pair, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Invariants 2, 4 and 8."""
    joined, other = pair
    before = proxy_of(joined)
    assert before != "0"
    later = versions.repacked(package, tmp_path, "9.0")
    acts: dict[str, Act] = {
        "restart": restart,
        "kill -9": kill,
        "reload": lambda machine: machine.run("systemctl", "reload", AGENT),
        "renewal": lambda machine: machine.run("istio-hostagent", "renew"),
        "upgrade": lambda machine: versions.install(machine, later),
        "downgrade": lambda machine: versions.install(machine, package),
        "daemon-reexec": lambda machine: machine.run("systemctl", "daemon-reexec"),
    }
    for name, act in acts.items():
        with load.between(joined, other) as found:
            act(joined)
            mesh.wait_joined(joined, within_s=60)
        with capsys.disabled():
            print(f"\n{joined.suite}, {name}: {found}")
        facts.never(sum(found.around), f"around the proxy: {found}")
        assert found.failures == []
        assert all(each["new"] and each["kept"] for each in found.counts)
        assert proxy_of(joined) == before, f"another proxy runs after {name}"
    network.wait_until(
        lambda: joined.run("pgrep", "-xc", "envoy").stdout == "1\n", "nobody checks any more"
    )
    with load.between(joined, other) as found:
        joined.run("systemctl", "stop", AGENT)
        ended = ("pgrep", "envoy")
        network.wait_until(lambda: joined.run(*ended, check=False).returncode == 1, "it ends")
    assert sum(found.around), "what goes around is not seen"


def test_a_transparent_proxy_outlives_its_agent_in_the_other_unit(
    machine: machines.Machine, other: machines.Machine, ca: mesh.Authority
) -> None:
    load.serve(machine)
    machine.write(mesh.SIDECAR_ENV, "ISTIO_INBOUND_INTERCEPTION_MODE=TPROXY\n")
    mesh.join(machine, ca)
    mesh.join(other, ca)
    unit = UNIT.replace("@", "-transparent@")
    before = machine.unit(unit, "MainPID")
    assert before["MainPID"] != "0"
    assert machine.unit(UNIT, "ActiveState")["ActiveState"] == "inactive"
    with load.between(machine, other) as found:
        restart(machine)
        mesh.wait_joined(machine)
    # What arrives is delivered with its own address and port, which the table takes for around.
    facts.never(found.around[0], f"around the proxy: {found}")
    assert found.failures == []
    assert machine.unit(unit, "MainPID") == before


def test_to_and_from_a_version_without_units_the_machine_stays_closed(
    joined: machines.Machine,
    other: machines.Machine,
    ca: mesh.Authority,
    package: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its proxy is a child, which ends with it: requests are refused, and none goes around."""
    mesh.join(other, ca)
    without = versions.repacked(package, tmp_path, "0.0.1", without="istio-proxy*.service")
    for name, given, unit in (("to it", without, ""), ("from it", package, UNIT)):
        with load.between(joined, other) as found:
            versions.install(joined, given)
            mesh.wait_joined(joined, within_s=60)
        with capsys.disabled():
            print(f"\n{joined.suite}, {name}: {found}")
        facts.never(sum(found.around), f"around the proxy: {found}")
        status = json.loads(joined.run("istio-hostagent", "status", "--json").stdout)
        assert status["proxy"]["unit"] == unit
        network.wait_until(
            lambda: joined.run("pgrep", "-xc", "envoy").stdout == "1\n", "nobody checks any more"
        )


LUA = {
    "name": "envoy.filters.http.lua",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {
            "inline_string": "function envoy_on_response(handle)"
            " local sum = 0 for i = 1, 100000 do sum = sum + i % 7 end"
            ' handle:headers():add("x-sum", tostring(sum)) end'
        },
    },
}


def test_a_filter_in_lua_runs_in_the_sandbox_of_the_unit(machine: machines.Machine) -> None:
    """What MemoryDenyWriteExecute= would end; the unit's other restrictions are on."""
    manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    answer = {"status": 200, "body": {"inline_string": "hello"}}
    routes = [{"match": {"prefix": "/"}, "direct_response": answer}]
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 19999}},
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "http",
                        "typed_config": {
                            "@type": f"type.googleapis.com/{manager}",
                            "stat_prefix": "x",
                            "route_config": {
                                "virtual_hosts": [
                                    {"name": "x", "domains": ["*"], "routes": routes}
                                ]
                            },
                            "http_filters": [
                                LUA,
                                {"name": "router", "typed_config": {"@type": router}},
                            ],
                        },
                    }
                ]
            }
        ],
    }
    machine.run("systemctl", "stop", AGENT)
    # What ends with the agent, a proxy's unit too, ends a little later.
    network.wait_until(
        lambda: machine.unit("istio-redirect.service", "ActiveState")["ActiveState"] == "inactive",
        "the guard has ended",
    )
    config = json.dumps({"static_resources": {"listeners": [listener]}})
    argv = ["/usr/bin/envoy", "--config-yaml", config, "--disable-hot-restart", "-l", "warning"]
    namespace = machine.run("stat", "-Lc", "%i", "/proc/self/ns/net").stdout.strip()
    launch = "".join(f"{word}\n" for word in (namespace, "/", "0", *argv))
    machine.run("mkdir", "-p", "/run/istio-hostagent")
    words = ("sh", "-c", "tr '\\n' '\\0' > /run/istio-hostagent/istio-proxy@0.launch")
    machine.run(*words, stdin=launch)
    machine.run("systemctl", "start", UNIT)
    for _ in range(3):
        ask = ("curl", "-sSi", "--retry", "20", "--retry-connrefused", "--retry-delay", "1")
        assert "x-sum: 300000" in machine.run(*ask, "http://127.0.0.1:19999/").stdout


# What pytest is made of; the machines have none.
PYTEST = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py.py")


def test_a_unit_keeps_what_is_promised_of_processes(machine: machines.Machine) -> None:
    """The contract that children keep, too, against the service manager itself."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("tests/__init__.py", "tests/contract", "tests/fakes"):
            archive.add(mesh.SOURCE / name, name)
        archive.add(mesh.SOURCE / "istio_hostagent", "istio_hostagent")
        for name in PYTEST:
            places = (Path(place) / name for place in sys.path)
            archive.add(next(filter(Path.exists, places)), name)
    machine.run("systemctl", "stop", AGENT)
    machine.run("mkdir", "/opt/contract")
    unpack = machine.command("tar", "-xf", "-", "-C", "/opt/contract")
    subprocess.run(unpack, input=packed.getvalue(), check=True, timeout=60)
    run = ("python3", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    only = "tests/contract/test_processes.py::TestUnits"
    done = machine.run("env", "-C", "/opt/contract", *run, only, check=False, within_s=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
