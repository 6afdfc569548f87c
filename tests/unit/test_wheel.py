"""What `pip install` gives: the command with all its verbs, and its workers.

Nothing is downloaded: the tools are Debian's, and so are the libraries, as in `make deb`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from istio_hostagent.cli import verbs
from tests.lab.host import CHECKOUT, PYTHON

PARTS = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "istio_hostagent")


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the package in it; pip writes into what it builds from."""
    directory = tmp_path_factory.mktemp("wheel")
    for parent in (directory, directory.parent):
        parent.chmod(0o755)
    source = directory / "source"
    source.mkdir()
    for part in PARTS:
        found = CHECKOUT / part
        if found.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(found, source / part, ignore=ignored)
        else:
            shutil.copy(found, source / part)
    place = directory / "venv"
    made = run(PYTHON, "-m", "venv", "--system-site-packages", "--without-pip", place)
    assert made.returncode == 0, made.stderr
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python"]
    done = run(*pip, place / "bin" / "python", "install", *options, source)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def command(place: Path) -> Path:
    return place / "bin" / "istio-hostagent"


def modules(package: Path) -> set[str]:
    return {str(path.relative_to(package)) for path in package.rglob("*.py")}


def test_every_module_is_in_it(installed: Path) -> None:
    (package,) = installed.glob("lib/python3*/site-packages/istio_hostagent")
    assert modules(package) == modules(CHECKOUT / "istio_hostagent")


def test_it_lists_its_verbs(installed: Path) -> None:
    done = run(command(installed), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip("\n") == verbs.overview().rstrip("\n")
    assert run(command(installed), "--version").stdout.startswith("istio-hostagent ")


@pytest.mark.parametrize("verb", [verb.name for verb in verbs.VERBS])
def test_every_verb_is_there(installed: Path, verb: str) -> None:
    done = run(command(installed), verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert verb in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to switch users")
def test_its_workers_are_started_from_where_it_lies(installed: Path, tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o077 == 0:
            parent.chmod(0o755)
    cluster = tmp_path / "cluster.env"
    cluster.write_text("ISTIO_SERVICE_CIDR=10.96.0.0/12\n")
    os.chown(cluster, 65534, 65534)  # so a worker reads it
    files = {"ISTIO_CLUSTER_CONFIG": str(cluster), "ISTIO_SIDECAR_CONFIG": str(tmp_path / "none")}
    done = run(command(installed), "config", CONFIGURATION_DIRECTORY=str(tmp_path), **files)
    assert "ISTIO_SERVICE_CIDR=10.96.0.0/12" in done.stdout, done.stderr
    assert "cannot be read" not in done.stderr
    status = run("unshare", "--net", command(installed), "status")
    assert status.returncode == 75
    assert "no agent runs" in status.stderr
