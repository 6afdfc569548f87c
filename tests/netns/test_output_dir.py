"""OUTPUT_CERTS from istio-proxy's own file: it serves, and root neither looks nor watches there."""

import contextlib
import os
import re
import shutil
import ssl
from pathlib import Path

import pytest

from tests.demo.ca_server import DemoAuthority
from tests.lab import netns
from tests.lab.host import Host, proxy_user
from tests.lab.waiting import eventually
from tests.netns.conftest import CLUSTER, MESH, MakeHost

pytestmark = pytest.mark.envoy

SECRET = "what only root may read"


def lay_out(host: Host) -> Path:
    """Have the host laid out as the guides of Istio 1.6 and 1.7 do; returns the directory.

    `/var/run` is a link of root's, `secrets` and the two files belong to istio-proxy.
    """
    secrets = host.directory / "run" / "secrets"
    secrets.mkdir(parents=True)
    (host.directory / "var").mkdir()
    (host.directory / "var" / "run").symlink_to("../run")
    output = host.directory / "var/run/secrets/istio"
    output.mkdir()
    shutil.copy(host.root, output / "root-cert.pem")
    config = host.directory / "istio"
    config.mkdir()
    host.cluster_env, host.sidecar_env = config / "cluster.env", config / "sidecar.env"
    envoy = host.hostagent_env.read_text().splitlines()
    host.hostagent_env.write_text(
        "".join(f"{line}\n" for line in envoy if "CERTS" not in line and "ROOT_CA" not in line)
    )
    host.write_sidecar("ISTIO_INBOUND_PORTS=8080\n")
    host.write_cluster(
        CA_ADDR=f"{CLUSTER}:15012",
        ISTIO_SERVICE_CIDR=MESH,
        PROV_CERT=str(output),
        OUTPUT_CERTS=str(output),
    )
    for path in (secrets, output, output / "root-cert.pem", config, *config.iterdir()):
        os.chown(path, *proxy_user())
    return output


def identity_served(cluster: netns.Network, authority: DemoAuthority, address: str) -> str:
    """The name in the certificate that a captured port shows to somebody on the network."""
    context = ssl.create_default_context(cafile=str(authority.root_file))
    context.check_hostname = False
    context.set_alpn_protocols(["istio"])
    with cluster.bind(CLUSTER, 0) as made:
        made.settimeout(5)
        made.connect((address, 8080))
        with context.wrap_socket(made) as served:
            shown = served.getpeercert() or {}
    names: list[str] = re.findall(r"spiffe://[^']+", repr(shown))
    return names[0]


def watched_inodes(host: Host) -> set[int]:
    """The inodes of all that the agent watches."""
    assert host.agent is not None
    found: set[int] = set()
    for path in Path(f"/proc/{host.agent.pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed at this moment
            lines = re.findall(r"(?m)^inotify wd:\S+ ino:([0-9a-f]+)", path.read_text())
            found |= {int(inode, 16) for inode in lines}
    return found


def inodes_below(directory: Path) -> set[int]:
    return {os.lstat(path).st_ino for path in (directory, *directory.rglob("*"))}


def test_directory_that_istio_proxys_own_file_names_serves(
    make_host: MakeHost, envoy: str, cluster: netns.Network, authority: DemoAuthority
) -> None:
    host = make_host(envoy=envoy)
    output = lay_out(host)
    host.start()
    host.verb("wait", "--timeout", "60")
    assert host.status()["configuration"]["problems"] == []
    names = {path.name for path in output.iterdir()}
    assert names >= {"key.pem", "cert-chain.pem", "root-cert.pem"}
    assert (output / "key.pem").stat().st_uid == proxy_user()[0]
    expected = "spiffe://cluster.local/ns/default/sa/default"
    assert identity_served(cluster, authority, "10.78.0.11") == expected
    host.verb("renew")
    assert identity_served(cluster, authority, "10.78.0.11") == expected
    # It survives a restart with nothing but what lies there.
    host.token.unlink()
    host.stop()
    host.start()
    host.verb("wait", "--timeout", "60")
    assert identity_served(cluster, authority, "10.78.0.11") == expected


def test_root_follows_nothing_that_istio_proxy_plants_there(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    output = lay_out(host)
    closed = host.directory / "closed"
    (closed / "deep").mkdir(parents=True)
    (closed / "deep" / "key.pem").write_text(SECRET)
    closed.chmod(0o700)
    host.start()
    host.verb("wait", "--timeout", "60")
    eventually(lambda: bool(watched_inodes(host)), "files are watched")
    for name, target in {
        "key.pem": str(closed / "deep" / "key.pem"),
        "cert-chain.pem": "",  # a FIFO
        "root-cert.pem": "/dev/zero",
        "..data": str(closed / "deep"),
    }.items():
        (output / name).unlink()
        if target:
            (output / name).symlink_to(target)
        else:
            os.mkfifo(output / name)
        host.verb("reload", is_checked=False)
        answer = host.verb("renew", is_checked=False)
        assert answer.returncode in (0, 69, 75, 77), answer
        eventually(lambda: host.status()["in_control"], "it goes on")
        assert not watched_inodes(host) & (inodes_below(output) | inodes_below(closed))
        assert SECRET not in host.log_text() + answer.stdout + answer.stderr
    # The directory itself as a link to what is root's.
    shutil.rmtree(output)
    output.symlink_to(closed / "deep")
    host.verb("reload", is_checked=False)
    host.verb("renew", is_checked=False)
    assert not watched_inodes(host) & inodes_below(closed)
    assert sorted(path.name for path in (closed / "deep").iterdir()) == ["key.pem"]
    assert (closed / "deep" / "key.pem").read_text() == SECRET
    assert SECRET not in host.log_text()


def test_new_root_put_there_is_tried_without_being_told(
    make_host: MakeHost, envoy: str, authority: DemoAuthority
) -> None:
    host = make_host(envoy=envoy)
    output = lay_out(host)
    (output / "root-cert.pem").unlink()
    host.start()
    eventually(lambda: "root-cert.pem" in host.log_text(), "the root is missed")
    shutil.copy(authority.root_file, output / "root-cert.pem")
    host.verb("wait", "--timeout", "60")


def test_file_that_others_can_change_names_no_directory(make_host: MakeHost, envoy: str) -> None:
    host = make_host(envoy=envoy)
    lay_out(host)
    host.cluster_env.chmod(0o666)
    host.start()
    eventually(lambda: "counts only from a file" in host.log_text(), "the refusal")
    [problem] = host.status()["configuration"]["problems"]
    assert problem.startswith(f"{host.cluster_env}:4: OUTPUT_CERTS: ")
    assert f"{host.cluster_env} belongs to" in problem
    assert "with mode 0666" in problem
    assert problem.endswith(f"move the line to {host.hostagent_env}")
