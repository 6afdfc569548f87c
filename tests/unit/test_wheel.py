"""What `pip install` gives: the command with all its verbs, and its workers.

Nothing is downloaded: the tools are Debian's, and so are the libraries, as in `make deb`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from istio_hostagent.cli import verbs
from tests.lab.host import CHECKOUT, PYTHON

PARTS = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "istio_hostagent")

PATIENCE = (
    ("host/layers.py", "READ_TIMEOUT_S = 5.0"),
    ("agent/prober.py", "WORKER_TIMEOUT_S = 10.0"),
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to switch users")


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=600,
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
    # Its workers get more time than an administrator would wait.
    for name, line in PATIENCE:
        path = source / "istio_hostagent" / name
        text = path.read_text()
        assert line in text
        path.write_text(text.replace(line, f"{line.partition('=')[0]}= 60.0"))
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


@pytest.fixture
def configured(tmp_path: Path) -> dict[str, str]:
    """The environment of a host whose cluster.env is not root's, so that a worker reads it."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o077 == 0:
            parent.chmod(0o755)
    cluster = tmp_path / "cluster.env"
    cluster.write_text("ISTIO_SERVICE_CIDR=10.96.0.0/12\n")
    os.chown(cluster, 65534, 65534)
    return {
        "ISTIO_CLUSTER_CONFIG": str(cluster),
        "ISTIO_SIDECAR_CONFIG": str(tmp_path / "sidecar.env"),
        "CONFIGURATION_DIRECTORY": str(tmp_path),
    }


@needs_root
def test_its_workers_are_started_from_where_it_lies(
    installed: Path, configured: dict[str, str]
) -> None:
    done = run(command(installed), "config", **configured)
    assert "ISTIO_SERVICE_CIDR=10.96.0.0/12" in done.stdout, done.stderr
    assert "cannot be read" not in done.stderr
    status = run("unshare", "--net", command(installed), "status")
    assert status.returncode == 75
    assert "no agent runs" in status.stderr


@needs_root
@pytest.mark.parametrize("verb", ["config", "plan"])
def test_an_ordinary_user_is_told_which_file_needs_root(
    installed: Path, configured: dict[str, str], verb: str
) -> None:
    ordinary = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"]
    done = run(*ordinary, command(installed), verb, **configured)
    assert done.returncode == 77
    assert done.stdout == ""
    assert configured["ISTIO_CLUSTER_CONFIG"] in done.stderr
    assert "only root can" in done.stderr
    assert "Traceback" not in done.stderr


@needs_root
def test_an_ordinary_user_sees_what_root_keeps_readable(
    installed: Path, configured: dict[str, str]
) -> None:
    root_only = Path(tempfile.mkdtemp(dir="/run"))
    try:
        root_only.chmod(0o755)
        cluster = root_only / "cluster.env"
        cluster.write_text("ISTIO_SERVICE_CIDR=10.96.0.0/12\n")
        configured |= {
            "ISTIO_CLUSTER_CONFIG": str(cluster),
            "ISTIO_SIDECAR_CONFIG": str(root_only / "sidecar.env"),
            "CONFIGURATION_DIRECTORY": str(root_only),
        }
        ordinary = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"]
        done = run(*ordinary, command(installed), "config", **configured)
    finally:
        shutil.rmtree(root_only)
    assert "ISTIO_SERVICE_CIDR=10.96.0.0/12" in done.stdout, done.stderr


# Each verb with what its exit status is on a machine of its own where no agent runs.
ALONE = {
    "status": ([], 75),
    "wait": (["--timeout", "1"], 75),
    "config": ([], 0),
    "cert": (["--check", "/nonexistent"], 77),
    "plan": ([], 0),
    "explain": (["tcp", "10.96.0.1:80"], 0),
    "verify": ([], 1),
    "doctor": ([], 1),
    "apply": ([], 0),
    "clean": ([], 0),
    "reset": ([], 0),
    "reload": ([], 75),
    "renew": ([], 75),
    "kubedns": ([], 1),
    "mesh": (["doctor", "--kubeconfig", "/nonexistent"], 78),
    "register": (["web", "10.0.0.7", "http:80"], 75),
    "deregister": (["web", "10.0.0.7"], 75),
}


@needs_root
@pytest.mark.parametrize("verb", [verb.name for verb in verbs.VERBS if verb.name != "run"])
def test_every_verb_does_its_work(
    installed: Path, configured: dict[str, str], tmp_path: Path, verb: str
) -> None:
    """In a network of its own, with directories of its own."""
    own = {"STATE_DIRECTORY": str(tmp_path / "state"), "RUNTIME_DIRECTORY": str(tmp_path / "run")}
    words, expected = ALONE[verb]
    done = run("unshare", "--net", command(installed), verb, *words, **configured, **own)
    assert done.returncode == expected, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@needs_root
def test_run_says_that_it_is_not_the_service_of_the_package(
    installed: Path, configured: dict[str, str], tmp_path: Path
) -> None:
    own = {"STATE_DIRECTORY": str(tmp_path / "state"), "RUNTIME_DIRECTORY": str(tmp_path / "run")}
    alone = ["unshare", "--net", "timeout", "--signal=TERM", "120", str(command(installed)), "run"]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **configured, **own}
    with subprocess.Popen(alone, env=environment, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        said = next((line for line in started.stderr if "of the package" in line), "")
        started.terminate()
    assert "nobody starts the agent again, its proxy ends with it" in said
