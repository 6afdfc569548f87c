"""Hosts on which nothing is redirected: real Envoys, a CA, and applications that ask the proxy."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.demo.ca_server import DemoAuthority
from tests.lab import netns, servers
from tests.lab.host import CHECKOUT, PYTHON, Host
from tests.lab.instance import Instance
from tests.lab.waiting import eventually
from tests.netns.conftest import ACCOUNT, CLUSTER, MESH, NOBODY, MakeHost, configure

pytestmark = pytest.mark.envoy

A, B = "10.78.0.11", "10.78.0.12"
GREETING = "5.5.5-MariaDB is here\n"
NONE = {"ISTIO_HOSTAGENT_REDIRECT": "none", "ISTIO_HOSTAGENT_MTLS": "strict"}
WEB, SHOP = 61600, 61601


def start(host: Host, **keys: str) -> None:
    host.write_cluster(CA_ADDR=f"{CLUSTER}:15012", TRUST_DOMAIN="cluster.local", **NONE, **keys)
    host.start()
    host.verb("wait", "--timeout", "60")


def mariadb(host: Host, port: int) -> servers.Server:
    """A server on loopback alone that speaks first."""
    return servers.Server(
        host.namespace, servers.Kind.RECORD, "127.0.0.1", port, banner=GREETING, user=NOBODY
    )


def ask(host: Host, address: str, port: int, *, payload: str = "") -> str:
    """What an ordinary user of this host gets to hear."""
    reply = servers.ask(host.namespace, address, port, payload, user=NOBODY, timeout_s=1.0)
    return reply.received or reply.outcome


def said_by(host: Host) -> str:
    """What `status` prints, also where no agent is there yet."""
    return host.verb("status", is_checked=False).stdout


def rules_of(host: Host) -> str:
    return host.namespace.run(["nft", "-s", "list", "ruleset"]).stdout


def held_ports(host: Host) -> list[int]:
    return list(host.status()["capture_ports"]["ports"])


def test_two_hosts_without_a_rule(make_host: MakeHost, envoy: str, cluster: netns.Network) -> None:
    a = make_host(envoy=envoy)
    b = make_host("b", envoy=envoy, number=12)
    start(b, ISTIO_HOSTAGENT_INBOUND="3306=3307")
    upstreams = f"8001={B}:3306"
    start(a, ISTIO_HOSTAGENT_UPSTREAMS=upstreams, ISTIO_HOSTAGENT_HTTP_PORT="15080")
    connect = f"CONNECT {B}:3306 HTTP/1.1\r\nHost: {B}:3306\r\n\r\n"
    with mariadb(b, 3307):
        eventually(lambda: ask(a, "127.0.0.1", 8001) == GREETING, "the greeting")
        eventually(lambda: GREETING in ask(a, "127.0.0.1", 15080, payload=connect), "by CONNECT")
        # Who is not in the mesh is not let in.
        assert ask(a, B, 3306) not in (GREETING, "")
    for host in (a, b):
        assert host.tables() == set()
        assert "::6" not in host.namespace.ip("-6", "address", "show", "dev", "lo")
        assert held_ports(host) == []
        status = host.status()
        assert status["in_mesh"]
        assert "nothing is redirected, applications speak to the proxy" in status["summary"]
        assert (status["redirection"]["state"], status["redirection"]["back_end"]) == (
            "none",
            "none: ISTIO_HOSTAGENT_REDIRECT=none",
        )
        assert status["served_certificate"]["state"] == "held"
        assert "proven" not in host.log_text()
        assert "proven" not in host.verb("status").stdout


def test_each_verb_says_that_there_are_no_rules(make_host: MakeHost, envoy: str) -> None:
    host = make_host(envoy=envoy)
    start(host, ISTIO_HOSTAGENT_UPSTREAMS=f"8001={B}:3306")
    said = (
        "no rules: applications speak to the proxy by themselves (ISTIO_HOSTAGENT_REDIRECT=none)"
    )
    assert host.verb("apply").stdout == f"{said}\n"
    plan = host.verb("plan")
    assert (plan.stdout, plan.stderr) == ("", f"warning: {said}\n")
    assert (
        "in place: nothing is redirected, no rule of ours is there" in host.verb("verify").stdout
    )
    explained = host.verb("explain", "tcp", "10.0.0.5:443").stdout
    assert "nothing is redirected here" in explained
    assert "ISTIO_HOSTAGENT_REDIRECT" in explained
    host.stop()
    assert host.verb("apply").stdout == f"{said}\n"
    assert "in place: nothing is redirected" in host.verb("verify").stdout
    assert host.verb("clean").stdout == "nothing to do: no rules of ours\n"


def test_rules_go_out_and_come_back_on_a_running_host(make_host: MakeHost, envoy: str) -> None:
    host = make_host(envoy=envoy)
    configure(host)
    host.start()
    host.verb("wait", "--timeout", "60")
    before = host.tables()
    assert before and held_ports(host) == [15001, 15006]
    keys = {"CA_ADDR": f"{CLUSTER}:15012", "TRUST_DOMAIN": "cluster.local"}
    host.write_cluster(**keys, **NONE, ISTIO_HOSTAGENT_UPSTREAMS=f"8001={B}:3306")
    host.verb("reload")
    assert host.tables() == set()
    assert host.status()["redirection"]["state"] == "none"
    assert host.status()["in_mesh"]
    eventually(lambda: held_ports(host) == [], "the capture ports are let go")
    # What does not hold leaves the rest as it is: a port that somebody else has.
    with mariadb(host, 8002):
        upstreams = f"8001={B}:3306,8002={B}:3307"
        host.write_cluster(**keys, **NONE, ISTIO_HOSTAGENT_UPSTREAMS=upstreams)
        refused = host.verb("reload", is_checked=False)
        assert refused.returncode != 0
        assert "cannot bind '127.0.0.1:8002'" in refused.stderr
        eventually(lambda: bool(host.status()["in_mesh"]), "what has worked comes back")
    configure(host)
    host.verb("reload")
    assert host.tables() == before
    assert host.status()["redirection"]["state"].startswith("proven")
    assert host.status()["in_mesh"]


def test_a_bad_value_is_named_with_file_and_line(make_host: MakeHost, envoy: str) -> None:
    host = make_host(envoy=envoy)
    configure(host, ISTIO_HOSTAGENT_REDIRECT="none", ISTIO_HOSTAGENT_UPSTREAMS="8001=mysql")
    host.start()
    problem = f"{host.cluster_env}:5: ISTIO_HOSTAGENT_UPSTREAMS: 'mysql' has no port"
    eventually(lambda: problem in said_by(host), "status says so")
    applied = host.verb("apply", is_checked=False)
    assert (applied.returncode, problem in applied.stderr) == (78, True)


# -- agents beside one another --------------------------------------------------------------------

MakeInstance = Callable[..., Instance]


@pytest.fixture
def make_instance(
    make_host: MakeHost, envoy: str, authority: DemoAuthority, request: pytest.FixtureRequest
) -> Iterator[MakeInstance]:
    """Make agents of ordinary users in the namespace of one host, which has no agent itself."""
    space = make_host().namespace
    with contextlib.ExitStack() as opened:
        made: list[Instance] = []

        def make(name: str, uid: int, *, status_port: int = 15021, **keys: str) -> Instance:
            host = Instance(space, name, uid=uid, envoy=envoy)
            opened.callback(host.close)
            made.append(host)
            shutil.copy(authority.root_file, host.root)
            host.root.chmod(0o644)
            host.write_token(authority.token(f"system:serviceaccount:default:{name}"))
            host.write_cluster(
                CA_ADDR=f"{CLUSTER}:15012",
                TRUST_DOMAIN="cluster.local",
                SERVICE_ACCOUNT=name,
                ISTIO_HOSTAGENT_STATUS_PORT=str(status_port),
                **NONE,
                **keys,
            )
            host.own()
            return host

        yield make
        for host in made:
            if request.node.rep_call_failed:
                print(f"--- log of {host.name}\n{host.log_text()[-8000:]}")


def capabilities(pid: int) -> set[str]:
    """The effective, permitted and ambient ones."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split()[1] for line in lines if line.startswith(("CapEff", "CapPrm", "CapAmb"))}


def test_two_agents_of_ordinary_users_side_by_side(
    make_instance: MakeInstance, authority: DemoAuthority
) -> None:
    web = make_instance(
        "web", WEB, ISTIO_HOSTAGENT_UPSTREAMS=f"8001={A}:3306", ISTIO_HOSTAGENT_HTTP_PORT="15080"
    )
    shop = make_instance("shop", SHOP, status_port=15031, ISTIO_HOSTAGENT_INBOUND="3306=3307")
    for host in (shop, web):
        host.start()
    for host in (shop, web):
        host.verb("wait", "--timeout", "60")
    with mariadb(shop, 3307):
        eventually(lambda: ask(web, "127.0.0.1", 8001) == GREETING, "the greeting")
        assert ask(web, A, 3306) != GREETING
    for host, uid in ((shop, SHOP), (web, WEB)):
        status = host.status()
        assert status["in_mesh"]
        assert status["certificate"]["identity"].endswith(f"/sa/{host.name}")
        assert host.agent is not None
        for pid in (host.agent.pid, status["proxy"]["pid"]):
            assert os.stat(f"/proc/{pid}").st_uid == uid
            assert capabilities(pid) == {"0000000000000000"}
        assert (host.certs / "key.pem").exists()
        assert (host.runtime / f"{host.namespace.inode}.{host.name}.sock").exists()
        assert "in place: nothing is redirected" in host.verb("verify").stdout
    assert web.tables() == set()
    # Another name is another agent, and there is none.
    other = web.verb("--instance", "other", "status", is_checked=False)
    assert (other.returncode, "no agent called other runs" in other.stderr) == (75, True)
    assert web.stop() == 0
    assert shop.status()["in_mesh"]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_an_agent_of_an_ordinary_user_comes_back(
    make_instance: MakeInstance, sign: signal.Signals
) -> None:
    host = make_instance("shop", SHOP, ISTIO_HOSTAGENT_INBOUND="3306=3307")
    host.start()
    host.verb("wait", "--timeout", "60")
    before = host.status()
    host.stop(sign)
    host.start()
    host.verb("wait", "--timeout", "60")
    after = host.status()
    assert after["certificate"]["serial"] == before["certificate"]["serial"]
    assert after["proxy"]["pid"] != before["proxy"]["pid"]
    pid = before["proxy"]["pid"]
    # A process that has ended is there until its parent has taken its status.
    assert not Path(f"/proc/{pid}/exe").exists()
    with mariadb(host, 3307):
        assert ask(host, A, 3306) != GREETING  # strict


def test_the_commands_of_the_document_for_an_ordinary_user(make_instance: MakeInstance) -> None:
    host = make_instance("shop", SHOP, ISTIO_HOSTAGENT_INBOUND="3306=3307")
    text = (CHECKOUT / "docs" / "non-transparent.md").read_text()
    _, commands = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    home = host.directory / "home"
    home.mkdir()
    program = home / "istio-hostagent"
    program.write_text(f'#!/bin/sh\nexec {PYTHON} -m istio_hostagent "$@"\n')
    program.chmod(0o755)
    shutil.copy(host.hostagent_env, home / "hostagent.env")
    host.own()
    environment = {
        "PATH": f"{home}:/usr/bin:/bin",
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(host.runtime),
        "PYTHONPATH": str(CHECKOUT),
        "ISTIO_CLUSTER_CONFIG": str(host.cluster_env),
    }
    script = f"set -e; cd {home}\n{commands}kill $!; wait $! || true\n"
    argv = host.namespace.argv([*host.wrapper, "sh", "-c", script])
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "in the mesh as spiffe://cluster.local/ns/default/sa/shop" in done.stdout
    assert "in place: nothing is redirected" in done.stdout
    states = home / ".local" / "state" / "istio-hostagent" / "instances"
    assert (states / "shop" / "certificate" / "key.pem").exists()


def test_an_agent_beside_others_needs_to_have_no_rules(make_instance: MakeInstance) -> None:
    host = make_instance("web", WEB)
    host.write_cluster(CA_ADDR=f"{CLUSTER}:15012", ISTIO_SERVICE_CIDR=MESH)
    host.start()
    said = "instance web needs ISTIO_HOSTAGENT_REDIRECT=none"
    eventually(lambda: said in said_by(host), "it says so")
    refused = host.verb("apply", is_checked=False)
    assert (refused.returncode, said in refused.stderr) == (78, True)


def test_an_agent_of_root_with_a_name_leaves_the_rules_of_the_host_alone(
    make_host: MakeHost, make_instance: MakeInstance, authority: DemoAuthority, envoy: str
) -> None:
    shop = make_instance("shop", 0, status_port=15031, ISTIO_HOSTAGENT_INBOUND="3306=3307")
    with contextlib.closing(Host(shop.namespace, envoy=envoy)) as main:
        shutil.copy(authority.root_file, main.root)
        main.root.chmod(0o644)
        main.write_token(authority.token(ACCOUNT))
        configure(main)
        main.start()
        main.verb("wait", "--timeout", "60")
        rules = rules_of(main)
        shop.start()
        shop.verb("wait", "--timeout", "60")
        assert "in place: nothing is redirected" in shop.verb("verify").stdout
        assert shop.stop() == 0
        assert shop.verb("clean", "--quiet").stdout == ""
        shop.verb("apply")
        assert rules_of(main) == rules
        status = main.status()
        assert status["in_mesh"]
        assert status["redirection"]["repaired"] == 0


def test_a_second_agent_of_one_name_is_refused(make_instance: MakeInstance) -> None:
    host = make_instance("web", WEB, ISTIO_HOSTAGENT_HTTP_PORT="15080")
    host.start()
    host.verb("wait", "--timeout", "60")
    second = host.verb("run", is_checked=False)
    assert second.returncode == 75
    assert "another agent or verb works in this network namespace" in second.stderr


def test_a_port_that_somebody_else_has_keeps_a_host_out(make_instance: MakeInstance) -> None:
    host = make_instance("shop", SHOP, ISTIO_HOSTAGENT_INBOUND="3306=3307")
    with servers.Server(host.namespace, servers.Kind.RECORD, A, 3306, user=NOBODY):
        host.start()
        eventually(lambda: "Address already in use" in said_by(host), "it is named")
        assert not host.status()["in_mesh"]
    eventually(lambda: bool(host.status()["in_mesh"]), "it joins by itself", within_s=60.0)


@pytest.mark.parametrize("name", ["Web", "a/b", "..", "-x", "x" * 33, ""])
def test_a_name_that_cannot_be_part_of_a_path(make_host: MakeHost, name: str) -> None:
    host = make_host()
    done = host.verb("--instance", name, "status", is_checked=False)
    assert done.returncode == 64
    assert "ISTIO_HOSTAGENT_INSTANCE" in done.stderr
