"""A signed apt repository for the test machines: our package, what it depends on, and an Envoy.

Debian has no Envoy package, so a throw-away one is wrapped around a binary that is handed in; it
never leaves the tests. Dependencies are fetched once per release and list of dependencies, so
that a machine installs them with apt but without the network.
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.package import images, overlay

ENVOY_CONTROL = """\
Package: envoy
Version: 1:0~throwaway
Architecture: {architecture}
Maintainer: istio-hostagent tests <tests@istio-hostagent.invalid>
Description: throw-away package around an Envoy binary, for tests only
"""


def architecture() -> str:
    """Return Debian's name of this machine's architecture."""
    return overlay.run_checked(["dpkg", "--print-architecture"]).strip()


def envoy_package(binary: Path, directory: Path) -> Path:
    """Wrap `binary` as /usr/bin/envoy of a package in `directory`; return the package's path."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        tree = Path(name)
        tree.chmod(0o755)
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(ENVOY_CONTROL.format(architecture=architecture()))
        (tree / "usr/bin").mkdir(parents=True)
        shutil.copy(binary, tree / "usr/bin/envoy")
        (tree / "usr/bin/envoy").chmod(0o755)
        # Compressing a hundred megabytes would take longer than everything else here.
        options = ["--build", "--root-owner-group", "-Znone"]
        overlay.run_checked(["dpkg-deb", *options, tree, directory])
    (package,) = directory.glob("envoy_*.deb")
    return package


def dependencies(suite: str, package: Path) -> list[Path]:
    """Return the packages that `package` pulls into a machine of a release, without itself."""
    wanted = overlay.run_checked(["dpkg-deb", "--field", package, "Depends"])
    return _pool(suite, wanted, package)


def debian_packages(suite: str, *names: str) -> list[Path]:
    """Return packages of Debian's, with what they pull into a machine of a release."""
    return _pool(suite, " ".join(names), *names)


def _pool(suite: str, wanted: str, *packages: str | Path) -> list[Path]:
    """Fetch what `packages` need, once for each text of `wanted`."""
    recipe = f"{images.Recipe(suite).key} {wanted}"
    name = f"pool-{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    target = overlay.CACHE / name
    with overlay.locked(target):
        if not target.is_dir():
            with overlay.finished(target) as draft:
                _download(suite, packages, draft)
    return sorted(target.glob("*.deb"))


def _download(suite: str, packages: Iterable[str | Path], directory: Path) -> None:
    options = [word for option in images.APT_OPTIONS for word in ("-o", _as_argument(option))]
    with overlay.scratch(images.image(suite)) as root:
        words = []
        for package in packages:
            if isinstance(package, Path):
                shutil.copy(package, root.upper / package.name)
            words.append(f"/{package.name}" if isinstance(package, Path) else package)
        root.run("apt-get", *options, "-q", "update", network=True)
        fetch = ["apt-get", *options, "-q", "-y", "--download-only", "install"]
        root.run(*fetch, *words, network=True)
        for archive in (root.upper / "var/cache/apt/archives").glob("*.deb"):
            shutil.move(archive, directory)


def _as_argument(option: str) -> str:
    name, value = option.split(maxsplit=1)
    return f"{name}={value.strip(chr(34))}"


class Repository:
    """A directory that apt accepts as a repository signed by a key of its own."""

    def __init__(self, directory: Path, keys: Path) -> None:
        self.directory = directory
        self._environment = {**os.environ, "GNUPGHOME": str(keys)}
        name = "istio-hostagent tests <tests@istio-hostagent.invalid>"
        self._gpg("--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", "1d")
        self.public_key = self._gpg("--armor", "--export")

    def publish(self, suite: str, packages: Iterable[Path]) -> None:
        """Offer exactly `packages` to machines of a release."""
        pool = self.directory / "pool" / suite
        shutil.rmtree(pool, ignore_errors=True)
        pool.mkdir(parents=True)
        for package in packages:
            _link(package, pool / package.name)
        dists = self.directory / "dists" / suite
        index = dists / "main" / f"binary-{architecture()}" / "Packages"
        index.parent.mkdir(parents=True, exist_ok=True)
        listing = ["apt-ftparchive", "packages", f"pool/{suite}"]
        index.write_text(overlay.run_checked(listing, cwd=self.directory))
        index.with_suffix(".gz").write_bytes(gzip.compress(index.read_bytes(), mtime=0))
        self._sign(suite, dists)

    def _sign(self, suite: str, dists: Path) -> None:
        values = {
            "Origin": "istio-hostagent-tests",
            "Suite": suite,
            "Codename": suite,
            "Architectures": architecture(),
            "Components": "main",
        }
        options = [
            word
            for name, value in values.items()
            for word in ("-o", f"APT::FTPArchive::Release::{name}={value}")
        ]
        (dists / "InRelease").unlink(missing_ok=True)
        (dists / "Release").unlink(missing_ok=True)
        release = overlay.run_checked(["apt-ftparchive", *options, "release", dists])
        (dists / "Release").write_text(release)
        signed = str(dists / "InRelease")
        self._gpg("--yes", "--clearsign", "--output", signed, str(dists / "Release"))

    def _gpg(self, *arguments: str) -> str:
        command = ["gpg", "--batch", "--quiet", *arguments]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise overlay.CommandFailed(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def close(self) -> None:
        """End the agent process that gpg leaves behind."""
        kill = ["gpgconf", "--kill", "all"]
        subprocess.run(kill, env=self._environment, check=False)


@contextmanager
def repository(parent: Path) -> Iterator[Repository]:
    """Give an empty repository below `parent`, which somebody else deletes."""
    directory = parent / "archive"
    directory.mkdir()
    # gpg has a socket here, so the path must be short (108 characters with its name).
    keys = parent / "keys"
    keys.mkdir(mode=0o700)
    made = Repository(directory, keys)
    try:
        yield made
    finally:
        made.close()


def _link(source: Path, target: Path) -> None:
    """Hard link where the file system allows it: Envoy is large."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
