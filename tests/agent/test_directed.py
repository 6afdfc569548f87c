"""A host in memory whose Envoy is told by istiod what to do: its secret server, and what it refuses."""

import signal

from istio_hostagent.cli import report
from tests.agent.host import MemoryHost
from tests.agent.texts import CLUSTER, HOSTAGENT, NAME_SERVERS, OWN, OWN_DIRECTED, TEXTS
from tests.fakes.processes import Plan

KEPT = "/state/names/table"
SERVER = ("secrets", "/state/certs/current", "/run/proxy/secrets/socket")
REFUSED = (
    b"[warning][upstream] cds: cluster 'PassthroughCluster' config rejected: Didn't find a"
    b" registered implementation for 'istio.metadata_exchange' with type URL: 'x'\n"
)


def state(host: MemoryHost) -> tuple[str, str]:
    found = host.status["secret_server"]
    return found["state"], found["last_error"]


def end_server(host: MemoryHost) -> None:
    pid = host.status["secret_server"]["pid"]
    (server,) = (each for each in host.processes.children if each.pid == pid)
    server.finish(-signal.SIGKILL)
    host.settle()


def test_a_secret_server_runs_before_the_proxy_asks_and_once_there_is_something_to_give(
    host: MemoryHost,
) -> None:
    host.write(HOSTAGENT, OWN_DIRECTED)
    host.start()
    assert host.servers == []
    host.until(lambda: bool(host.running), 30.0, "the proxy is started")
    assert host.servers == [SERVER]
    (_, spec, _) = host.running[0]
    assert spec.secret_socket == SERVER[2]
    assert f'"path": "{SERVER[2]}"' in host.disk.files[spec.argv[2]].decode()
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    assert state(host) == ("running", "")


def test_none_runs_where_nobody_asks_it_or_a_unit_is_one(host: MemoryHost) -> None:
    host.join()
    assert (host.servers, state(host)) == ([], ("none", ""))
    host.write(HOSTAGENT, OWN_DIRECTED + b"ISTIO_HOSTAGENT_SECRET_SOCKET=/run/x/secrets.sock\n")
    host.run(5.0)
    assert host.is_in_mesh
    assert host.running[-1][1].secret_socket == "/run/x/secrets.sock"
    assert host.servers == []
    host.kill()
    host.machine.facts = host.machine.facts._replace(secret_socket="/run/secrets.sock")
    host.write(HOSTAGENT, OWN_DIRECTED)
    host.join()
    assert host.running[-1][1].secret_socket == "/run/secrets.sock"
    assert host.servers == []


def test_one_that_ends_is_started_again_ever_more_seldom_and_said(host: MemoryHost) -> None:
    host.write(HOSTAGENT, OWN_DIRECTED)
    host.join()
    host.run(100.0)
    host.server_plan = Plan(0.1, lambda: (1, b""))
    end_server(host)
    assert state(host) == ("failed", "secret server was ended by SIGKILL")
    host.run(120.0)
    assert 8 <= len(host.servers) <= 14
    assert "secret server exited with status 1" in host.summary
    assert host.is_in_mesh
    host.server_plan = Plan(None)
    host.run(40.0)
    assert state(host) == ("running", "")
    assert "secret server" not in host.summary


def test_one_that_nobody_asks_any_more_ends(host: MemoryHost) -> None:
    host.write(HOSTAGENT, OWN_DIRECTED)
    host.join()
    pid = host.status["secret_server"]["pid"]
    host.write(HOSTAGENT, OWN)
    host.run(5.0)
    assert host.is_in_mesh
    assert state(host) == ("none", "")
    assert all(each.pid != pid or each.status is not None for each in host.processes.children)


def test_what_is_refused_is_named_while_the_host_waits_and_later(host: MemoryHost) -> None:
    host.write(HOSTAGENT, OWN_DIRECTED)
    host.start()
    host.until(lambda: bool(host.running), 30.0, "the proxy is started")
    child, spec, _ = host.running[0]
    host.running[0] = (child, spec, float("inf"))
    child.output += REFUSED
    host.run(3.0)
    assert "Envoy refuses what istiod sends: cluster PassthroughCluster" in host.summary
    assert "it does not have istio.metadata_exchange (take the Envoy of" in host.summary
    host.running[0] = (child, spec, 0.0)
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    assert "refuses" not in host.summary
    (refused,) = host.status["control_plane"]["rejected"]
    assert (refused["kind"], refused["name"]) == ("cluster", "PassthroughCluster")
    assert "the proxy refused cluster PassthroughCluster: Didn't find" in report.render(
        host.status
    )
    assert sum("proxy refuses what istiod sends" in line for line in host.log.lines) == 1


def test_a_resolver_of_names_runs_beside_the_proxy_where_queries_are_captured(
    host: MemoryHost,
) -> None:
    host.write(HOSTAGENT, OWN_DIRECTED)
    host.write(CLUSTER, TEXTS["names"])
    host.machine.facts = host.machine.facts._replace(name_servers=NAME_SERVERS[0])
    host.join()
    assert host.summary.startswith("in the mesh as ")
    assert "queries" not in host.summary
    (_, spec, _) = host.running[0]
    directory = spec.argv[2].rpartition("/")[0]
    names = "/run/proxy/shared/names.sock"
    resolver = ("resolver", f"{directory}/node.json", names, "15053", KEPT)
    assert host.servers == [SERVER, resolver]
    assert f"{directory}/node.json" in host.disk.files
    assert host.status["resolver"]["state"] == "running"
    # Another address of this host is another node.
    host.write(HOSTAGENT, OWN_DIRECTED + b"ISTIO_SVC_IP=10.1.0.9\n")
    host.run(20.0)
    assert host.is_in_mesh
    assert len(host.servers) == 3
    assert host.servers[2][1] != resolver[1]
    host.write(CLUSTER, TEXTS["A"])
    host.run(80.0)  # connections of the proxy before are drained first
    assert host.is_in_mesh
    assert host.status["resolver"]["state"] == "none"


def test_a_host_whose_resolver_does_not_answer_is_not_in_the_mesh(host: MemoryHost) -> None:
    host.write(HOSTAGENT, OWN_DIRECTED)
    host.write(CLUSTER, TEXTS["names"])
    host.machine.facts = host.machine.facts._replace(name_servers=NAME_SERVERS[0])
    host.is_resolver_mute = True
    host.start()
    host.until(lambda: "resolver: it does not answer" in host.summary, 60.0, "what is wrong")
    assert not host.is_in_mesh
    host.until(lambda: not host.has_rules, 60.0, "the attempt to join has failed")
    host.is_resolver_mute = False
    host.until(lambda: host.is_in_mesh, 120.0, "in the mesh")
    assert host.status["resolver"]["answers"]
    # One that answers no more is named, and replaced.
    before = host.status["resolver"]["pid"]
    host.is_resolver_mute = True
    host.until(lambda: not host.is_in_mesh, 120.0, "not any more")
    host.settle()
    assert host.summary.startswith("degraded: resolver: it does not answer")
    assert host.has_rules
    host.until(lambda: host.status["resolver"]["pid"] not in (None, before), 60.0, "another one")
    host.is_resolver_mute = False
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")


def test_a_host_whose_resolver_has_ended_is_not_in_the_mesh_until_it_is_there_again(
    host: MemoryHost,
) -> None:
    host.write(HOSTAGENT, OWN_DIRECTED)
    host.write(CLUSTER, TEXTS["names"])
    host.machine.facts = host.machine.facts._replace(name_servers=NAME_SERVERS[0])
    host.join()
    pid = host.status["resolver"]["pid"]
    (resolver,) = (each for each in host.processes.children if each.pid == pid)
    resolver.finish(-signal.SIGKILL)
    host.settle()
    assert not host.is_in_mesh
    assert "resolver was ended by SIGKILL" in host.summary
    host.until(lambda: host.is_in_mesh, 10.0, "in the mesh")
