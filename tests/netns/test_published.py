"""What a user who is not root sees of a real agent, and what is left of it when that is killed."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab.host import PYTHON, Host
from tests.lab.waiting import eventually
from tests.netns.conftest import NOBODY, MakeHost, join

pytestmark = pytest.mark.envoy


@pytest.fixture
def joined(make_host: MakeHost, envoy: str) -> Host:
    host = make_host(envoy=envoy)
    join(host)
    return host


def ask(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `status` as a user without rights; the checkout may be closed to him."""
    package = host.directory / "product"
    if not package.is_dir():
        shutil.copytree(host.checkout / "istio_hostagent", package / "istio_hostagent")
    return subprocess.run(
        host.namespace.argv([PYTHON, "-m", "istio_hostagent", "status", *words], NOBODY),
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=package,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_every_user_is_told_how_the_host_stands_and_only_root_the_details(joined: Host) -> None:
    shown = ask(joined)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("mesh           in the mesh as spiffe://")
    outbound = joined.status()["redirection"]["outbound"]
    assert f"outbound       {outbound}\n" in shown.stdout
    report = json.loads(ask(joined, "--json").stdout)
    assert report["in_mesh"]
    assert "last_error" not in report["proxy"]
    assert report["summary"] == joined.status()["summary"]
    assert "istio_hostagent_in_mesh 1" in ask(joined, "--metrics").stdout


def test_a_check_needs_no_root_and_calls_nothing_good_whose_agent_is_gone(joined: Host) -> None:
    words = ("--check", "in-mesh", "cert=1m", "proof=1h", "control-plane")
    done = ask(joined, *words)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert done.stdout.startswith("MESH OK - in the mesh as ")
    assert ask(joined, "--check", "cert=900h").returncode == 1
    assert ask(joined, "--check", "nonsense").returncode == 3
    joined.kill()
    done = ask(joined, *words)
    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert "has ended without a word" in done.stdout
    assert ask(joined, "--check", "cert=1m").returncode == 3
    done = ask(joined)
    assert done.returncode == 75
    assert "has ended without a word" in done.stderr
    joined.start()
    joined.verb("wait", "--timeout", "60")
    eventually(lambda: ask(joined, *words).returncode == 0, "good again")
    assert joined.stop() == 0
    assert "no agent runs" in ask(joined, *words).stdout


def test_no_user_can_change_what_is_published_or_keep_the_agent_from_writing(joined: Host) -> None:
    path = Path(f"/run/istio-hostagent/{joined.namespace.inode}.status")
    attempt = (
        "import fcntl, os, sys\n"
        "for act in (lambda: open(sys.argv[1], 'w'), lambda: os.unlink(sys.argv[1]),\n"
        "            lambda: os.mkdir(sys.argv[1] + '.new'), lambda: os.rename(sys.argv[1], '/tmp/x')):\n"
        "    try:\n"
        "        act()\n"
        "        sys.exit('done')\n"
        "    except PermissionError:\n"
        "        pass\n"
        "held = open(sys.argv[1])\n"
        "fcntl.flock(held, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    argv = joined.namespace.argv([PYTHON, "-c", attempt, str(path)], NOBODY)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "held\n"
        joined.write_sidecar("ISTIO_INBOUND_PORTS=nonsense\n")
        codes = ("config-invalid",)
        eventually(
            lambda: tuple(each["code"] for each in json.loads(path.read_text())["causes"])
            == codes,
            "written all the same",
        )
        user.communicate("", timeout=60)


def test_watching_in_a_pipe_shows_each_change_and_ends_with_an_interrupt(joined: Host) -> None:
    argv = joined.namespace.argv([PYTHON, "-m", "istio_hostagent", "status", "--watch"])
    log = joined.directory / "watched"
    with open(log, "w") as out:
        watching = subprocess.Popen(argv, env=joined.environment, stdout=out, stderr=out)
    try:
        eventually(lambda: log.read_text().startswith("mesh "), "the report")
        joined.write_sidecar("ISTIO_INBOUND_PORTS=nonsense\n")
        eventually(lambda: "\n\nmesh " in log.read_text(), "another report")
        eventually(lambda: "to do          config-invalid: " in log.read_text(), "what is wrong")
        assert "\x1b" not in log.read_text()
        joined.kill()
        eventually(lambda: "no agent runs" in log.read_text(), "that it is gone")
    finally:
        watching.send_signal(signal.SIGINT)
        status = watching.wait(10)
    assert status == 75
