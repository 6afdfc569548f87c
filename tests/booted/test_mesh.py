"""A machine joins, and a request goes through: from files that appear to bytes on the cable."""

import json
import re

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.package import overlay


def test_files_appear_and_it_joins_without_a_restart(
    machine: machines.Machine, ca: mesh.Authority, cluster: network.Cluster
) -> None:
    before = machine.unit("istio-hostagent.service", "MainPID", "NRestarts")
    mesh.join(machine, ca)

    assert machine.unit("istio-hostagent.service", "MainPID", "NRestarts") == before
    assert machine.run("istio-hostagent", "status").returncode == 0
    assert machine.run("istio-hostagent", "verify").returncode == 0
    assert mesh.table_names(machine) == ["istio_guard", "istio_hostagent"]
    assert machine.exists("/var/lib/istio-hostagent/joined")
    assert machine.exists("/var/lib/istio-hostagent/guard.nft")
    assert cluster.ssh(machine.address, "true").returncode == 0


def test_a_request_is_captured_encrypted_and_answered(
    machine: machines.Machine,
    peer: machines.Machine,
    ca: mesh.Authority,
    cluster: network.Cluster,
) -> None:
    before = mesh.ask(machine, peer.address)
    assert before.status != 0, "the peer accepts mutual TLS only"
    mesh.join(machine, ca)
    with mesh.wiretap(machine) as captured:
        answers = [mesh.ask(machine, peer.address, user=user) for user in ("nobody", "root")]

    seen = captured.read_bytes()
    for answer in answers:
        assert answer.status == 0
        assert f"{peer.name} heard /{answer.secret}" in answer.body
        assert answer.secret.encode() not in seen
    # A TLS handshake (22), then application data (23), versions as records carry them.
    assert b"\x16\x03\x01" in seen
    assert b"\x17\x03\x03" in seen
    assert cluster.ssh(machine.address, "true").returncode == 0


def test_a_request_to_the_machine_reaches_its_application_through_the_proxy(
    machine: machines.Machine, peer: machines.Machine, ca: mesh.Authority
) -> None:
    mesh.serve(machine)
    mesh.serve(machine, mesh.PLAIN_PORT)
    mesh.join(machine, ca)

    answer = mesh.ask(peer, machine.address)
    assert answer.status == 0
    assert f"{machine.name} heard /{answer.secret}" in answer.body
    # Whoever has no certificate of the mesh is refused there, and only there.
    assert not _gets_answer(machine, mesh.PORT)
    assert _gets_answer(machine, mesh.PLAIN_PORT)


ADMIN = "/run/istio-hostagent/*.proxy/admin/envoy.sock"


def test_the_admin_interface_of_the_proxy_is_roots(
    machine: machines.Machine, ca: mesh.Authority
) -> None:
    mesh.join(machine, ca)
    asked = f"curl -s --max-time 30 --unix-socket {ADMIN} http://envoy/server_info"
    assert '"state"' in machine.run("sh", "-c", asked).stdout
    refused = ("sh", "-c", asked.replace(ADMIN, "$(cat /tmp/socket)"))
    machine.run("sh", "-c", f"ls {ADMIN} > /tmp/socket")
    nobody = ("setpriv", "--reuid=nobody", "--clear-groups")
    assert machine.run(*nobody, *refused, check=False).returncode == 7
    assert machine.run("sh", "-c", f"stat -c %a:%U {ADMIN}").stdout == "600:istio-proxy\n"
    # Where the agent has few rights, too, packets of every user show who may answer.
    shown = machine.run("istio-hostagent", "verify", "--verbose").stdout
    assert "met: an answer of an application on capture port 15006 (IPv4) is refused" in shown
    assert "met: an answer of the proxy on capture port 15006 (IPv4) is left alone" in shown


def test_a_firewall_that_drops_what_is_captured_is_named_from_within_the_sandbox(
    machine: machines.Machine, ca: mesh.Authority
) -> None:
    mesh.join(machine, ca)
    arrives = f"a connection to {machine.address} port {mesh.PORT} arrives at the proxy"
    verified = json.loads(machine.run("istio-hostagent", "verify", "--json").stdout)
    assert arrives in verified["kept"]
    assert not any("arrives at" in each for each in verified["not_testable"])

    machine.run("nft", "add table inet filter")
    machine.run(
        "nft", "add chain inet filter input { type filter hook input priority 0; policy drop; }"
    )
    port = str(mesh.PORT)
    accept = ["ct state established,related accept", 'iifname "lo" accept', "tcp dport 22 accept"]
    for rule in (*accept, f"tcp dport {port} accept"):
        machine.run("nft", f"add rule inet filter input {rule}")

    def status() -> str:
        return machine.run("istio-hostagent", "status", check=False).stdout

    network.wait_until(lambda: "let it in: " in status(), "the firewall is named")
    assert "degraded" in status()
    assert machine.run("istio-hostagent", "verify", check=False).returncode == 1
    command = re.search(r"let it in: (nft insert rule .* accept)", status())
    assert command
    machine.run(*command[1].split())
    mesh.wait_joined(machine)


def test_an_open_ssh_session_lives_through_joining_and_leaving(
    machine: machines.Machine, ca: mesh.Authority, cluster: network.Cluster
) -> None:
    script = "while read -r line; do echo heard $line; done"
    with network.Session(cluster, machine.address, script) as session:
        assert session.exchange("before") == "heard before"
        mesh.join(machine, ca)
        assert session.exchange("joined") == "heard joined"
        machine.run("systemctl", "restart", "istio-hostagent")
        assert session.exchange("restarted") == "heard restarted"
        machine.run("systemctl", "stop", "istio-hostagent")
        assert session.exchange("left") == "heard left"


def test_sshd_is_found_wherever_it_listens(machine: machines.Machine, ca: mesh.Authority) -> None:
    machine.write(mesh.SIDECAR_ENV, "ISTIO_INBOUND_PORTS=*\n")
    mesh.join(machine, ca)

    machine.write("/etc/ssh/sshd_config.d/more.conf", "Include /etc/ssh/more/*.conf\n")
    machine.write("/etc/ssh/more/port.conf", "Port 2201\n")
    machine.run("systemctl", "restart", "ssh")
    assert not _has_ssh(machine, 2201)  # who asks has no certificate of the mesh
    machine.run("systemctl", "reload", "istio-hostagent")
    network.wait_until(lambda: _has_ssh(machine, 2201), "sshd answers")
    assert _ports_found(machine) == "22 2201"

    machine.run("rm", "/etc/ssh/more/port.conf")
    machine.write("/etc/default/ssh", 'SSHD_OPTS="-p 2202"\n')
    machine.run("systemctl", "restart", "ssh")
    assert _ports_found(machine) == "22 2202"

    socket = "[Socket]\nListenStream=\nListenStream=2203\n"
    machine.write("/etc/systemd/system/ssh.socket.d/port.conf", socket)
    machine.run("systemctl", "disable", "--quiet", "--now", "ssh.service")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "ssh.socket")
    assert _ports_found(machine) == "22 2203"

    # Nothing but the name of the process tells what it is.
    sshd = ("-p", "RuntimeDirectory=sshd", "/usr/sbin/sshd", "-D", "-p", "2204")
    machine.run("systemd-run", "--quiet", "--unit=admin-access", *sshd)
    server = ("/usr/bin/python3", "-m", "http.server", "8088")
    machine.run("systemd-run", "--quiet", "--unit=web", *server)
    network.wait_until(lambda: _are_listening(machine, 2204, 8088), "both are in use")
    assert _ports_found(machine) == "22 2203 2204"
    machine.run("systemctl", "reload", "istio-hostagent")
    network.wait_until(lambda: _has_ssh(machine, 2203), "sshd answers")
    network.wait_until(lambda: _has_ssh(machine, 2204), "the other one answers")
    assert not _gets_answer(machine, 8088)


def test_a_wrong_token_leaves_the_network_as_it_was(
    machine: machines.Machine, ca: mesh.Authority
) -> None:
    mesh.serve(machine)
    before = mesh.network_state(machine)
    # Of another authority's making: right in form, and refused.
    mesh.provision(machine, ca, token=f"{ca.token(machine.name)[:-8]}AAAAAAAA")

    network.wait_until(
        lambda: "certificate" in _status_text(machine).lower(), "the refusal is shown"
    )
    status = machine.run("istio-hostagent", "status", check=False)
    assert status.returncode != 0
    assert mesh.network_state(machine) == before
    assert not machine.exists("/var/lib/istio-hostagent/joined")
    assert machine.unit("istio-hostagent.service", "ActiveState")["ActiveState"] == "active"

    # The right one is taken as soon as it is there.
    machine.write(mesh.TOKEN, ca.token(machine.name), mode="0600", owner="istio-proxy")
    mesh.wait_joined(machine)


def test_a_restart_with_a_typo_keeps_the_last_accepted_state(
    machine: machines.Machine, peer: machines.Machine, ca: mesh.Authority
) -> None:
    mesh.join(machine, ca)
    rules = _rules(machine)
    machine.write(
        mesh.CLUSTER_ENV, mesh.cluster_env(ca, machine.name, ISTIO_SERVICE_CIDR="10.200.1.0/42")
    )
    machine.run("systemctl", "restart", "istio-hostagent")

    network.wait_until(lambda: "cluster.env:2" in _status_text(machine), "the line is shown")
    assert _rules(machine) == rules
    network.wait_until(
        lambda: mesh.ask(machine, peer.address).status == 0, "requests are answered"
    )

    machine.write(mesh.CLUSTER_ENV, mesh.cluster_env(ca, machine.name))
    network.wait_until(lambda: "cluster.env:2" not in _status_text(machine), "it is corrected")
    mesh.wait_joined(machine)


def _gets_answer(machine: machines.Machine, port: int) -> bool:
    """Whether somebody outside the mesh, on the same network, gets an answer."""
    url = f"http://{machine.address}:{port}/"
    try:
        return "heard" in machine.cluster.run("curl", "-sS", "--max-time", "15", url)
    except overlay.CommandFailed:
        return False


def _has_ssh(machine: machines.Machine, port: int) -> bool:
    """Whether sshd answers somebody outside the mesh, on the same network."""
    scan = ("ssh-keyscan", "-T", "3", "-t", "ed25519", "-p", str(port), machine.address)
    try:
        return "ssh-ed25519" in machine.cluster.run(*scan)
    except overlay.CommandFailed:
        return False


def _ports_found(machine: machines.Machine) -> str:
    """The ports that an agent which starts now takes for sshd's, with the rights of its unit."""
    properties = ("CapabilityBoundingSet", "ProtectControlGroups", "ProtectKernelTunables")
    unit = machine.unit("istio-hostagent.service", *properties)
    confine = [word for name, value in unit.items() for word in ("-p", f"{name}={value}")]
    code = "from istio_hostagent.host import facts; print(*facts.probe_ssh_ports())"
    python = ("env", "PYTHONPATH=/usr/share/istio-hostagent", "/usr/bin/python3", "-c", code)
    return machine.run("systemd-run", "--quiet", "--pipe", *confine, *python).stdout.strip()


def _are_listening(machine: machines.Machine, *ports: int) -> bool:
    listing = machine.run("ss", "-Hltn").stdout
    return all(f":{port} " in listing for port in ports)


def _status_text(machine: machines.Machine) -> str:
    return machine.unit("istio-hostagent.service", "StatusText")["StatusText"]


def _rules(machine: machines.Machine) -> str:
    """Our rules as nft shows them, without counters and the process that owns them."""
    listing = machine.run(
        "nft", "--stateless", "list", "table", "inet", "istio_hostagent"
    ).stdout.splitlines()
    return "\n".join(line for line in listing if "progname" not in line)


def test_the_classic_unit_shows_each_attempt_in_the_words_of_the_guide(
    machine: machines.Machine, ca: mesh.Authority
) -> None:
    mesh.join(machine, ca)
    machine.run("istio-hostagent", "renew")
    status = ("systemctl", "status", "--no-pager", "--lines=50", "istio-auth-node-agent")
    assert "CSR is approved" not in machine.run(*status, check=False).stdout
    mesh.wait_joined(machine)
    machine.run("systemctl", "start", "istio-auth-node-agent")
    machine.run("istio-hostagent", "renew")
    machine.run("journalctl", "--sync")
    shown = machine.run(*status).stdout
    assert "node_agent" in shown
    assert "Sending CSR (retrial #0) ..." in shown
    assert re.search(r"CSR is approved successfully\. Will renew cert in \d+h\d+m[\d.]+s", shown)
    # What came before is said once, in our own words.
    assert "in the mesh as spiffe://" in shown
