"""A machine joins, and a request goes through: from files that appear to bytes on the cable."""

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


def test_sshd_on_another_port_is_found_where_every_port_is_captured(
    machine: machines.Machine, ca: mesh.Authority
) -> None:
    machine.write(mesh.SIDECAR_ENV, "ISTIO_INBOUND_PORTS=*\n")
    mesh.join(machine, ca)
    machine.write("/etc/ssh/sshd_config.d/port.conf", "Port 2222\n")
    machine.run("systemctl", "restart", "ssh")
    assert not _has_ssh(machine, 2222)  # who asks has no certificate of the mesh
    machine.run("systemctl", "reload", "istio-hostagent")
    assert _has_ssh(machine, 2222)


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
        return "heard" in machine.cluster.run("curl", "-sS", "--max-time", "3", url)
    except overlay.CommandFailed:
        return False


def _has_ssh(machine: machines.Machine, port: int) -> bool:
    """Whether sshd answers somebody outside the mesh, on the same network."""
    scan = ("ssh-keyscan", "-T", "3", "-t", "ed25519", "-p", str(port), machine.address)
    try:
        return "ssh-ed25519" in machine.cluster.run(*scan)
    except overlay.CommandFailed:
        return False


def _status_text(machine: machines.Machine) -> str:
    return machine.unit("istio-hostagent.service", "StatusText")["StatusText"]


def _rules(machine: machines.Machine) -> str:
    """Our rules as nft shows them, without counters and the process that owns them."""
    listing = machine.run(
        "nft", "--stateless", "list", "table", "inet", "istio_hostagent"
    ).stdout.splitlines()
    return "\n".join(line for line in listing if "progname" not in line)
