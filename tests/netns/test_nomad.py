"""The job files of docs/nomad, run as Nomad runs them: namespaces, users, order, signals and end."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.demo.ca_server import DemoAuthority
from tests.lab import netns, nomadjob
from tests.lab.nomadclient import PROXY_USER, Client
from tests.lab.nomadstandin import NETWORK, Allocation, StandIn
from tests.lab.waiting import eventually

from .conftest import CLUSTER, MESH, NOBODY, NOMAD_CLIENT

pytestmark = pytest.mark.envoy

DOCUMENTS = Path(__file__).parents[2] / "docs" / "nomad"
AGENT = "/usr/sbin/istio-hostagent"
WITHIN_S = 60.0
PATH_OF_ROOT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


@pytest.fixture
def nomad(nomad_client: Client, authority: DemoAuthority) -> Iterator[StandIn]:
    def token(name: str) -> dict[str, str]:
        return {
            "token": authority.token(f"system:serviceaccount:default:{name}"),
            "root": authority.root_file.read_text(),
        }

    groups = {"shop": ("web", "visitor"), "unprivileged": ("reader",)}
    variables = {
        f"nomad/jobs/{job}/{name}": token(name) for job, names in groups.items() for name in names
    }
    made = StandIn(nomad_client, variables)
    made.services["istiod"] = [(CLUSTER, 15012)]
    with contextlib.closing(made):
        yield made


@pytest.fixture
def shop() -> nomadjob.Job:
    return nomadjob.parse(DOCUMENTS / "shop.nomad.hcl", {"mesh": f"{MESH},{NETWORK}"})


def status(group: Allocation) -> dict[str, Any]:
    done = group.execute([AGENT, "status", "--json"], is_checked=False)
    return dict(json.loads(done.stdout))


class Logged(Protocol):
    def log(self, task: str) -> str:
        """What a task has said."""


def accessed(group: Logged, direction: str) -> list[dict[str, Any]]:
    """The lines of its proxy about what went this way."""
    lines = (line.removeprefix("envoy: ") for line in group.log("agent").splitlines())
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [each for each in found if each["direction"] == direction]


def identity(name: str) -> str:
    return f"spiffe://cluster.local/ns/default/sa/{name}"


@pytest.mark.parametrize("has_pid_namespace", [False, True], ids=["raw_exec", "pid-namespace"])
def test_two_groups_on_one_client_each_with_its_own_proxy_and_identity(
    nomad: StandIn,
    shop: nomadjob.Job,
    cluster: netns.Network,
    nomad_client: Client,
    has_pid_namespace: bool,
) -> None:
    with (
        nomad.start(shop, "web", has_pid_namespace=has_pid_namespace) as web,
        nomad.start(shop, "visitor", has_pid_namespace=has_pid_namespace) as visitor,
    ):
        eventually(lambda: "answered" in visitor.log("visitor"), "the visitor is answered")
        for group, name in ((web, "web"), (visitor, "visitor")):
            said = status(group)
            assert said["in_mesh"], said["summary"]
            assert said["certificate"]["identity"] == identity(name)
            assert (said["pid"] == 1) == has_pid_namespace
            assert {"istio_hostagent", "istio_guard"} <= group.tables()
            key = f"/run/istio-hostagent/{group.id}/state/certificate/key.pem"
            assert nomad_client.run(["stat", "-Lc", "%u %a", key]).stdout == f"{PROXY_USER} 600\n"
        # One proxy of each carries it, and each shows who it is.
        eventually(lambda: bool(accessed(web, "inbound")), "the proxy of web says so")
        assert accessed(web, "inbound")[0]["peer"] == identity("visitor")
        assert accessed(web, "inbound")[0]["downstream_tls"] == "TLSv1.3"
        eventually(lambda: bool(accessed(visitor, "outbound")), "that of visitor, too")
        assert accessed(visitor, "outbound")[0]["peer"] == identity("web")
        assert not accessed(web, "outbound") and not accessed(visitor, "inbound")
        # Who is not in the mesh gets no answer; who only checks does.
        place = f"http://{NOMAD_CLIENT}:{web.ports['http']}/"
        assert cluster.run(["curl", "-s", "--max-time", "5", place]).stdout == ""
        (service,) = shop.groups["web"].services
        label, kind, path = service.check
        assert kind == "http"
        checked = cluster.run(
            ["curl", "-sf", "--max-time", "30", f"http://{NOMAD_CLIENT}:{web.ports[label]}{path}"]
        )
        assert checked.returncode == 0
        # What Nomad's own service manager wants to hear is not from them.
        assert not nomad.is_manager_told()
        # On the client itself nothing is redirected.
        assert "istio" not in nomad_client.namespace.run(["nft", "list", "tables"]).stdout


@pytest.mark.parametrize("sign", [0, signal.SIGINT], ids=["kill_signal", "default-of-nomad"])
@pytest.mark.parametrize("has_pid_namespace", [False, True], ids=["raw_exec", "pid-namespace"])
def test_a_group_stops_without_a_trace_and_comes_up_elsewhere(
    nomad: StandIn,
    shop: nomadjob.Job,
    nomad_client: Client,
    has_pid_namespace: bool,
    sign: signal.Signals,
) -> None:
    web = nomad.start(shop, "web", has_pid_namespace=has_pid_namespace)
    with web:
        inode = nomad_client.run(["stat", "-c", "%i", f"/run/netns/{web.id}"]).stdout.strip()
        web.end("web")
        limit_s = shop.groups["web"].tasks["agent"].kill_timeout_s
        began = os.times().elapsed
        assert web.end("agent", sign) == 0
        assert os.times().elapsed - began < limit_s / 2
        # Before Nomad takes the namespace away.
        assert web.tables() == set()
        assert web.pids() == []
        words = ["ip", "netns", "exec", web.id, "ip", "-6", "address", "show", "dev", "lo"]
        assert "::6" not in nomad_client.run(words).stdout
        assert f"{inode}.lock" in nomad_client.run(["ls", "/run/istio-hostagent"]).stdout
        web.stop()
    assert nomad_client.run(["ls", "/run/istio-hostagent"]).stdout == ""
    assert [pid for pid in nomad_client.pids() if pid != nomad_client.keeper] == []
    with nomad.start(shop, "web", has_pid_namespace=has_pid_namespace) as again:
        assert status(again)["in_mesh"]
        assert status(again)["certificate"]["identity"] == identity("web")


@pytest.mark.parametrize("has_pid_namespace", [False, True], ids=["raw_exec", "pid-namespace"])
def test_an_agent_that_was_killed_is_started_where_it_was(
    nomad: StandIn, shop: nomadjob.Job, cluster: netns.Network, has_pid_namespace: bool
) -> None:
    with nomad.start(shop, "web", has_pid_namespace=has_pid_namespace) as web:
        before = status(web)
        assert web.end("agent", signal.SIGKILL) != 0
        # Nothing goes to the application as it comes.
        assert web.tables() == {"istio_hostagent", "istio_guard"}
        place = f"http://{NOMAD_CLIENT}:{web.ports['http']}/"
        assert cluster.run(["curl", "-s", "--max-time", "5", place]).stdout == ""
        web.begin("agent")
        web.execute([AGENT, "wait", "--timeout", str(WITHIN_S)])
        after = status(web)
        assert after["in_mesh"]
        assert after["certificate"]["serial"] == before["certificate"]["serial"]
        assert web.tables() == {"istio_hostagent", "istio_guard"}


def test_who_has_lost_its_parent_in_a_task_is_buried(nomad: StandIn, shop: nomadjob.Job) -> None:
    with nomad.start(shop, "web", has_pid_namespace=True) as web:
        pid = web.pid("agent")
        orphan = "sleep 5 & sleep 5 & :"
        subprocess.run(["nsenter", "-t", str(pid), "--pid", "sh", "-c", orphan], check=True)

        def names() -> list[str]:
            found = []
            for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    found.append(Path(f"/proc/{each}/comm").read_text().strip())
            return found

        eventually(lambda: names().count("sleep") == 2, "both are children of the agent")
        eventually(lambda: "sleep" not in names(), "both are gone from the table")
        assert status(web)["in_mesh"]


def test_an_ordinary_user_in_a_root_of_its_own_speaks_to_the_proxy(
    nomad: StandIn, shop: nomadjob.Job, nomad_client: Client
) -> None:
    printed = nomad_client.run(["sh", str(DOCUMENTS / "chroot-env.sh")], env=PATH_OF_ROOT).stdout
    nomad.chroot_env = json.loads(printed)["client"]["chroot_env"]
    job = nomadjob.parse(DOCUMENTS / "unprivileged.nomad.hcl")
    with nomad.start(shop, "web") as web, nomad.start(job, "reader") as reader:
        eventually(lambda: bool(lines_of(reader)), "it has read the page", within_s=WITHIN_S)

        def told() -> dict[str, Any]:
            said = reader.execute([AGENT, "status", "--json"], is_checked=False)
            return dict(json.loads(said.stdout))

        eventually(lambda: told()["in_mesh"], "the reader is in the mesh", within_s=WITHIN_S)
        assert (told()["pid"], reader.tables()) == (1, set())
        eventually(lambda: bool(accessed(web, "inbound")), "its proxy says so", within_s=WITHIN_S)
        assert accessed(web, "inbound")[-1]["peer"] == identity("reader")
        # Nothing of it may do more than its user.
        there = []
        for pid in reader.pids():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                there.append(read_status(pid))
        inside = [found for found in there if len(found["NSpid"]) > 1]
        assert len(inside) >= 3
        for found in inside:
            assert set(found["Uid"]) == {str(NOBODY)}
            assert {found[f"Cap{each}"][0] for each in ("Eff", "Prm", "Bnd", "Amb")} == {"0" * 16}
        assert reader.end("agent") == 0


def read_status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def lines_of(reader: Allocation) -> list[str]:
    return [line for line in reader.log("reader").splitlines() if line.isdigit()]
