"""Every command of docs/getting-started.md, in its order: by hand, and what user data has done."""

import re

import pytest

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.booted.conftest import LONG_S, Start
from tests.booted.test_cloud_init import seeded  # noqa: F401 # a fixture
from tests.package import overlay, repository

DOCUMENT = mesh.SOURCE / "docs/getting-started.md"
BY_HAND, FROM_USER_DATA = "By hand", "From user data"
ISTIOD = "istiod.istio-system.svc"
SOURCES = """\
Types: deb
URIs: http://{address}/
Suites: {suite}
Components: main
Signed-By: /etc/apt/keyrings/istio-hostagent.asc
"""


def commands(section: str) -> list[tuple[str, str]]:
    """Each command of a section with what it is said to print, or nothing."""
    _, _, text = DOCUMENT.read_text().partition(f"\n## {section}\n")
    blocks = re.findall(r"```console\n(.*?)```", text.partition("\n## ")[0], re.DOTALL)
    parts = [part for block in blocks for part in re.split("^# ", block, flags=re.M) if part]
    return [(part.partition("\n")[0], part.partition("\n")[2].strip()) for part in parts]


def perform(machine: machines.Machine, section: str, **replaced: str) -> None:
    """Type the commands of a section in the directory of root."""
    for command, output in commands(section):
        for name, value in replaced.items():
            command = command.replace(name, value)
        for name, value in (("10.96.0.0/12", mesh.MESH), ("10.96.0.1", "10.200.1.1")):
            command = command.replace(name, value)
        done = machine.run("sh", "-ec", f"cd /root\n{command}", within_s=LONG_S)
        assert output in done.stdout, f"{command}: {done.stdout}"


def test_a_bare_machine_comes_into_the_mesh_by_hand(
    start: Start,
    suite: str,
    archive: repository.Repository,
    ca: mesh.Authority,
    peer: machines.Machine,
) -> None:
    machine = start(suite, "bare")
    machine.run("rm", "-f", "/etc/apt/sources.list")
    env = mesh.cluster_env(ca, machine.name, CA_ADDR=f"{ISTIOD}:{ca.port}")
    for name, text in {
        "istio-hostagent.asc": archive.public_key,
        "istio-hostagent.sources": SOURCES.format(address=network.ADDRESS, suite=suite),
        "root-cert.pem": ca.root_certificate,
        "istio-token": ca.token(machine.name),
        "hosts": f"{network.ADDRESS} {ISTIOD}\n",
        "cluster.env": env,
    }.items():
        machine.write(f"/root/{name}", text)
    mesh.serve(machine)
    assert len(commands(BY_HAND)) > 15
    perform(machine, BY_HAND, SERVER=peer.address)
    # In both directions, and nobody without a certificate of the mesh.
    for one, other in ((machine, peer), (peer, machine)):
        assert mesh.ask(one, other.address).status == 0
    url = f"http://{machine.address}:{mesh.PORT}/"
    with pytest.raises(overlay.CommandFailed):
        machine.cluster.run("curl", "-sS", "--max-time", "15", url)


def test_user_data_leaves_nothing_to_be_typed(seeded: machines.Machine) -> None:  # noqa: F811
    assert commands(FROM_USER_DATA)
    perform(seeded, FROM_USER_DATA)
