"""`make repo`: the same bytes twice, and apt installs from it what was built."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.package import archive

PORT = 8082
URL = f"http://{network.ADDRESS}:{PORT}"


@pytest.fixture
def keys(cluster: network.Cluster) -> Iterator[archive.Keys]:
    # gpg has a socket here, so the path must be short (108 characters with its name).
    made = archive.Keys(cluster.directory / "repo-keys", 1_700_000_000)
    yield made
    made.close()


def content(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_the_same_package_and_key_give_the_same_bytes(
    keys: archive.Keys, package: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        archive.make(tmp_path / name, package, URL, keys)
    first = content(tmp_path / "one")
    assert first == content(tmp_path / "two")
    assert {"dists/stable/InRelease", "istio-hostagent.asc", "istio-hostagent.sources"} <= {*first}


def test_apt_installs_from_it_and_from_nowhere_else(
    cluster: network.Cluster,
    provided: machines.Machine,
    keys: archive.Keys,
    package: Path,
    tmp_path: Path,
) -> None:
    made = tmp_path / "repo"
    archive.make(made, package, URL, keys)
    provided.run("sh", "-c", "rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*")
    provided.write(archive.KEY_FILE, (made / "istio-hostagent.asc").read_text())
    source = (made / "istio-hostagent.sources").read_text()
    provided.write("/etc/apt/sources.list.d/istio-hostagent.sources", source)
    address = ["--bind", network.ADDRESS, "--directory", str(made), str(PORT)]
    with cluster.server(
        PORT, "/usr/bin/python3", "-m", "http.server", *address, log="made-archive.log"
    ):
        updated = provided.run("apt-get", "-q", "update")
        assert "NO_PUBKEY" not in updated.stdout + updated.stderr
        provided.run("apt-get", "-q", "-y", "install", "istio-hostagent")
        policy = provided.run("apt-cache", "policy", "istio-hostagent").stdout
        assert f"{URL} stable/main" in policy
        # Whoever changes an index has no key, and apt takes nothing of it.
        index = made / "dists/stable/main/binary-all/Packages"
        for path in index.parent.parent.glob("*/Packages*"):
            path.write_bytes(path.read_bytes() + b"\n")
        provided.run("sh", "-c", "rm -rf /var/lib/apt/lists/*")
        assert provided.run("apt-get", "-q", "update", check=False).returncode != 0
    listed = provided.run("dpkg", "-L", "istio-hostagent").stdout.splitlines()
    own = {line.removeprefix("/usr/share/doc/istio-hostagent/") for line in listed}
    for name in ("README.md", "monitoring.md", "examples/user-data.yaml", "examples/alerts.yaml"):
        assert own & {name, f"{name}.gz"}, name
