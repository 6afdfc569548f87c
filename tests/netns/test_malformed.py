"""Bad files on a real host: one clear error with file and line, and the state before untouched."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.host import PYTHON, Host, proxy_user
from tests.netns.conftest import MakeHost, configure

MARK = "executed"

# name: (text of sidecar.env, line of the one problem; 0: the file as a whole)
TEXTS: dict[str, tuple[bytes, int]] = {
    "port too large": (b"ISTIO_INBOUND_PORTS=70000\n", 1),
    "port zero": (b"ISTIO_INBOUND_PORTS=0\n", 1),
    "port negative": (b"ISTIO_INBOUND_PORTS=-80\n", 1),
    "port word": (b"ISTIO_INBOUND_PORTS=http\n", 1),
    "port with unit": (b"ISTIO_INBOUND_PORTS=8080/tcp\n", 1),
    "port range backwards": (b"ISTIO_INBOUND_PORTS=9000:8000\n", 1),
    "port range open": (b"ISTIO_INBOUND_PORTS=9000:\n", 1),
    "star and port": (b"ISTIO_INBOUND_PORTS=*,80\n", 1),
    "separated by semicolons": (b'ISTIO_INBOUND_PORTS="80;90"\n', 1),
    "second line": (b"# ports\nISTIO_INBOUND_PORTS=8080,x\n", 2),
    "cidr octet": (b"ISTIO_SERVICE_CIDR=10.0.0.256/8\n", 1),
    "cidr prefix": (b"ISTIO_SERVICE_CIDR=10.0.0.0/33\n", 1),
    "cidr v6 prefix": (b"ISTIO_SERVICE_CIDR=fd00::/129\n", 1),
    "cidr name": (b"ISTIO_SERVICE_CIDR=example.org\n", 1),
    "cidr mask": (b"ISTIO_SERVICE_CIDR=10.0.0.0/255.0.0.0\n", 1),
    "cidr exclude star": (b"ISTIO_SERVICE_EXCLUDE_CIDR=*\n", 1),
    "open double quote": (b'ISTIO_INBOUND_PORTS="8080\n', 1),
    "open single quote": (b"ISTIO_INBOUND_PORTS='8080\n", 1),
    "open ansi quote": (b"ISTIO_INBOUND_PORTS=$'8080\n", 1),
    "quote on a later line": (b"A_KEY=1\nISTIO_INBOUND_PORTS='8080\n", 2),
    "command substitution": (f"ISTIO_INBOUND_PORTS=$(touch {MARK})\n".encode(), 1),
    "backticks": (f"ISTIO_INBOUND_PORTS=`touch {MARK}`\n".encode(), 1),
    "substitution in quotes": (f'ISTIO_INBOUND_PORTS="$(touch {MARK})"\n'.encode(), 1),
    "second command": (f"ISTIO_INBOUND_PORTS=80; touch {MARK}\n".encode(), 1),
    "pipe": (f"ISTIO_INBOUND_PORTS=80 | touch {MARK}\n".encode(), 1),
    "background": (f"ISTIO_INBOUND_PORTS=80 & touch {MARK}\n".encode(), 1),
    "environment for a command": (f"ISTIO_INBOUND_PORTS=80 touch {MARK}\n".encode(), 1),
    "unquoted blank": (b"ISTIO_INBOUND_PORTS=27017, 3306\n", 1),
    "plain command": (f"touch {MARK}\n".encode(), 1),
    "process substitution": (f"ISTIO_INBOUND_PORTS=<(touch {MARK})\n".encode(), 1),
    "arithmetic": (b"ISTIO_INBOUND_PORTS=$((80+1))\n", 1),
    "operator expansion": (b"ISTIO_INBOUND_PORTS=${X:-80}\n", 1),
    "array": (b"ISTIO_INBOUND_PORTS=(80 90)\n", 1),
    "conditional": (b"if true; then\nISTIO_INBOUND_PORTS=80\nfi\n", 1),
    "no equals sign": (b"ISTIO_INBOUND_PORTS\n", 1),
    "blank before equals": (b"ISTIO_INBOUND_PORTS =80\n", 1),
    "yaml": (b"ISTIO_INBOUND_PORTS: 80\n", 1),
    "nul byte": (b"ISTIO_INBOUND_PORTS=80\x0090\n", 1),
    "binary": (bytes(range(256)) * 8, 1),
    "latin-1": (b"ISTIO_SERVICE=caf\xe9\n", 1),
    "duration": (b"SECRET_TTL=1 day\n", 1),
    "address without port": (b"CA_ADDR=istiod.istio-system.svc\n", 1),
    "mode": (b"ISTIO_INBOUND_INTERCEPTION_MODE=NONE\n", 1),
    "ten megabytes": (b"A_KEY=" + b"x" * (10 << 20) + b"\n", 0),
}


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    made = make_host()
    configure(made)
    made.verb("apply")
    return made


def ruleset(host: Host) -> str:
    return host.namespace.run(["nft", "-s", "list", "ruleset"], check=True).stdout


def assert_refused(host: Host, done: subprocess.CompletedProcess[str], line: int) -> None:
    assert done.returncode == 78, done.stdout + done.stderr
    problems = [text for text in done.stderr.splitlines() if str(host.sidecar_env) in text]
    assert len(problems) >= 1
    where = f"{host.sidecar_env}:{line}: " if line else f"{host.sidecar_env}: "
    assert where in problems[0]
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 12


def test_every_malformed_text_is_refused_and_changes_nothing(
    host: Host, subtests_of: Callable[[str], None]
) -> None:
    before = ruleset(host)
    for name, (text, line) in TEXTS.items():
        subtests_of(name)
        host.sidecar_env.write_bytes(text)
        assert_refused(host, host.verb("apply", is_checked=False), line)
        assert ruleset(host) == before, name
        assert not list(Path.cwd().glob(MARK)), name
    host.write_sidecar("ISTIO_INBOUND_PORTS=8080\n")
    assert "nothing to do" in host.verb("apply").stdout


@pytest.fixture
def subtests_of(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Say which row is under way, so that a failure names it."""

    def tell(name: str) -> None:
        print(f"row: {name}")

    return tell


def make_directory(host: Host) -> None:
    host.sidecar_env.mkdir()


def make_loop(host: Host) -> None:
    other = host.sidecar_env.with_suffix(".other")
    host.sidecar_env.symlink_to(other)
    other.symlink_to(host.sidecar_env)


def make_fifo(host: Host) -> None:
    os.mkfifo(host.sidecar_env)


def make_socket_like(host: Host) -> None:
    host.sidecar_env.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [make_directory, make_loop, make_fifo, make_socket_like])
def test_something_else_in_the_files_place(host: Host, make: Callable[[Host], None]) -> None:
    before = ruleset(host)
    host.sidecar_env.unlink()
    make(host)
    assert_refused(host, host.verb("apply", is_checked=False), 0)
    assert ruleset(host) == before


def test_a_file_that_root_may_not_read_without_overriding_rights(host: Host) -> None:
    before = ruleset(host)
    host.sidecar_env.chmod(0)
    os.chown(host.sidecar_env, *proxy_user())
    without = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    done = subprocess.run(
        host.namespace.argv([*without, PYTHON, "-m", "istio_hostagent", "apply"]),
        env=host.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert_refused(host, done, 0)
    assert "Permission denied" in done.stderr
    assert ruleset(host) == before


@pytest.mark.parametrize(
    ("line", "owner"),
    [
        ("ISTIO_HOSTAGENT_ENVOY=/tmp/envoy", proxy_user()),
        # What istio-proxy alone acts on may come from its own files, but from nobody else's.
        ("OUTPUT_CERTS=/etc/elsewhere", (65534, 65534)),
    ],
)
def test_a_path_from_a_file_that_others_can_change_is_refused(
    host: Host, line: str, owner: tuple[int, int]
) -> None:
    before = ruleset(host)
    host.write_sidecar(f"{line}\n")
    os.chown(host.sidecar_env, *owner)
    done = host.verb("apply", is_checked=False)
    assert_refused(host, done, 1)
    assert str(host.sidecar_env) in done.stderr
    assert ruleset(host) == before
