"""docs/nomad.md, command by command, with a real Nomad where one is given."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.demo.ca_server import DemoAuthority
from tests.lab import netns, nomad
from tests.lab.host import CHECKOUT
from tests.lab.nomad import Nomad, RealAllocation
from tests.lab.nomadclient import Client
from tests.lab.waiting import eventually

from .conftest import CLUSTER
from .test_nomad import AGENT, accessed, identity
from .test_nomad_control_plane import find_peer, find_programs

pytestmark = pytest.mark.envoy

BLOCKS = re.findall(
    r"^```sh\n(.*?)^```$", (CHECKOUT / "docs/nomad.md").read_text(), re.MULTILINE | re.DOTALL
)
CLIENT, CONTROL_PLANE, ADMINISTRATOR, ROOTS, SHOP, LOOK, STOP, UNPRIVILEGED = range(8)
WITHIN_S = 90.0
BUILT_WITHIN_S = 180.0


@pytest.fixture(scope="session")
def binary() -> Path:
    return nomad.find_binary()


@pytest.fixture
def work(nomad_client: Client, authority: DemoAuthority) -> Path:
    """Where an operator is who follows the document, with tokens for each group."""
    made = nomad_client.directory / "work"
    made.mkdir()
    (made / "docs").symlink_to(CHECKOUT / "docs")
    for name in ("web", "visitor", "reader"):
        token = authority.token(f"system:serviceaccount:default:{name}")
        (made / f"{name}.token").write_text(token)
    (made / "root-cert.pem").write_bytes(authority.root_file.read_bytes())
    return made


@pytest.fixture
def bare(binary: Path, nomad_client: Client, work: Path, tmp_path: Path) -> Iterator[Nomad]:
    """One that runs nothing yet."""
    with Nomad(binary, nomad_client, tmp_path) as made:
        nomad_client.run(["sh", "-ec", f"cd {work}\n{BLOCKS[CLIENT]}"], env=made.environment)
        made.start()
        yield made


@pytest.fixture
def real(bare: Nomad) -> Nomad:
    """One that knows where the CA is."""
    bare.announce("istiod", CLUSTER, 15012)
    return bare


def typed(real: Nomad, work: Path, block: int) -> str:
    """What the commands of a block of the document print."""
    words = ["sh", "-ec", f"cd {work}\n{BLOCKS[block]}"]
    environment = {**real.environment, "CLIENT": real.client.address}
    return real.client.run(words, env=environment, timeout=300).stdout


def status(group: RealAllocation) -> dict[str, Any]:
    return dict(json.loads(group.execute([AGENT, "status", "--json"], is_checked=False).stdout))


def test_the_commands_of_the_document_with_a_real_nomad(
    real: Nomad, work: Path, cluster: netns.Network
) -> None:
    typed(real, work, SHOP)
    web, visitor = (real.allocation("shop", name) for name in ("web", "visitor"))
    eventually(lambda: "answered" in visitor.log("visitor"), "it is answered", within_s=WITHIN_S)
    for group, name in ((web, "web"), (visitor, "visitor")):
        said = status(group)
        assert said["in_mesh"], said["summary"]
        assert said["certificate"]["identity"] == identity(name)
        assert group.tables() == {"istio_hostagent", "istio_guard"}
    assert accessed(web, "inbound")[-1]["peer"] == identity("visitor")
    assert accessed(visitor, "outbound")[-1]["peer"] == identity("web")
    place = f"http://{real.client.address}:{web.ports['http']}/"
    assert cluster.run(["curl", "-s", "--max-time", "5", place]).stdout == ""
    (service,) = real.get("service/web")
    assert service["Port"] == web.ports["http"]
    printed = typed(real, work, LOOK)
    assert "in the mesh as spiffe://cluster.local/ns/default/sa/" in printed
    assert "in place" in printed

    printed = typed(real, work, UNPRIVILEGED)
    assert "Job validation successful" in printed
    reader = real.allocation("unprivileged", "reader")
    eventually(lambda: bool(numbers(reader)), "it has read the page", within_s=WITHIN_S)
    assert status(reader)["pid"] == 1
    assert reader.tables() == set()
    assert identity("reader") in {each["peer"] for each in accessed(web, "inbound")}

    inodes = [inode_of(real, group) for group in (web, visitor)]
    typed(real, work, STOP)
    eventually(lambda: not real.is_left("shop"), "both have ended", within_s=WITHIN_S)
    gone = {web.id, visitor.id, *(f"{inode}.lock" for inode in inodes)}
    listing = ["ls", "/run/istio-hostagent", "/run/netns"]
    eventually(lambda: not gone & set(real.client.run(listing).stdout.split()), "nothing is left")
    assert not [group for group in (web, visitor) if group.pids()]
    for task in ("agent", "visitor"):
        assert visitor.state(task)["ExitCode"] in (0, 130)
    # What the agents have to say to a service manager is not for that of Nomad.
    assert "STATUS=" not in real.told()


def test_a_real_nomad_starts_a_killed_agent_again_and_a_stopped_group_elsewhere(
    real: Nomad, work: Path
) -> None:
    typed(real, work, SHOP)
    web = real.allocation("shop", "web")
    before = status(web)
    real.client.run(["kill", f"-{signal.SIGKILL:d}", str(before["pid"])])
    eventually(
        lambda: web.restarts("agent") == 1 and bool(status_or_nothing(web).get("in_mesh")),
        "it is in the mesh again",
        within_s=WITHIN_S,
    )
    after = status(web)
    assert after["pid"] != before["pid"]
    assert after["certificate"]["serial"] == before["certificate"]["serial"]
    assert web.restarts("web") == 0
    real.command("alloc", "stop", "-detach", web.id)
    eventually(lambda: real.allocation("shop", "web").id != web.id, "another", within_s=WITHIN_S)
    again = real.allocation("shop", "web")
    assert status(again)["certificate"]["identity"] == identity("web")
    assert status(again)["certificate"]["serial"] != before["certificate"]["serial"]


def test_groups_go_on_while_a_real_nomad_is_away(real: Nomad, work: Path) -> None:
    typed(real, work, SHOP)
    web, visitor = (real.allocation("shop", name) for name in ("web", "visitor"))
    eventually(lambda: "answered" in visitor.log("visitor"), "it is answered", within_s=WITHIN_S)
    before = status(web)
    real.kill()
    answered = visitor.log("visitor").count("answered")
    eventually(
        lambda: visitor.log("visitor").count("answered") > answered, "again", within_s=WITHIN_S
    )
    real.start()
    eventually(
        lambda: status_or_nothing(web).get("pid") == before["pid"],
        "it is found",
        within_s=WITHIN_S,
    )
    assert status(web)["in_mesh"]
    assert web.restarts("agent") == 0


def test_the_control_plane_of_the_document_with_a_real_nomad(bare: Nomad, work: Path) -> None:
    for path in find_programs():
        bare.client.run(["install", "-m", "755", str(path), f"/usr/local/bin/{path.name}"])
    istioctl = find_peer("istio", "istioctl")
    words = [str(istioctl), "manifest", "generate", "--set", "profile=empty"]
    words += ["--set", "components.base.enabled=true"]
    made = subprocess.run(words, capture_output=True, check=True, env={"HOME": str(work)})
    objects = [each for each in yaml.safe_load_all(made.stdout) if each]
    kinds = [each for each in objects if each["kind"] == "CustomResourceDefinition"]
    (work / "crd-all.gen.yaml").write_text(yaml.safe_dump_all(kinds))

    typed(bare, work, CONTROL_PLANE)
    ready = ["curl", "-ksf", "-m", "5", f"https://{bare.client.address}:6443/readyz"]
    eventually(
        lambda: bare.client.run(ready, check=False).stdout == "ok",
        "the API server is ready",
        within_s=BUILT_WITHIN_S,
    )
    typed(bare, work, ADMINISTRATOR)
    typed(bare, work, ROOTS)
    typed(bare, work, SHOP)
    web, visitor = (bare.allocation("shop", name) for name in ("web", "visitor"))
    eventually(lambda: "answered" in visitor.log("visitor"), "it is answered", within_s=WITHIN_S)
    assert accessed(web, "inbound")[-1]["peer"] == identity("visitor")
    assert accessed(visitor, "outbound")[-1]["peer"] == identity("web")
    eventually(
        lambda: {"success"} == {each["Status"] for each in checks(bare)},
        "what the control plane serves is found well",
        within_s=WITHIN_S,
    )


def checks(real: Nomad) -> list[dict[str, Any]]:
    plane = real.allocation("control-plane", "control-plane")
    return list(real.get(f"client/allocation/{plane.id}/checks").values())


def numbers(reader: RealAllocation) -> list[str]:
    return [line for line in reader.log("reader").splitlines() if line.isdigit()]


def inode_of(real: Nomad, group: RealAllocation) -> str:
    return real.client.run(["stat", "-c", "%i", f"/run/netns/{group.id}"]).stdout.strip()


def status_or_nothing(group: RealAllocation) -> dict[str, Any]:
    """It may not be there yet, and then nothing can be run in it."""
    done = group.execute([AGENT, "status", "--json"], is_checked=False)
    return dict(json.loads(done.stdout)) if done.stdout.startswith("{") else {}
