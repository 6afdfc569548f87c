"""Marked keys, tokens and passwords, planted everywhere: nothing of them is anywhere else.

One host goes through everything that touches them, crashes included. What each process of this
machine has as arguments and environment is collected all the while; at the end every place is
searched in which a secret could have been left.
"""

import base64
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.demo import ca_material
from tests.demo.ca_policy import Mode
from tests.demo.ca_server import DemoAuthority
from tests.lab import facts
from tests.lab.host import Host, proxy_user
from tests.lab.metadata import Behaviour, MetadataServer
from tests.lab.waiting import eventually
from tests.netns.conftest import ACCOUNT, MakeHost, configure

PASSWORD = "Marked-Password-of-Pkcs12-9f31"
VERBS = (
    ("status",),
    ("status", "--json"),
    ("status", "--metrics"),
    ("cert",),
    ("cert", "--json"),
    ("config", "--explain"),
    ("config", "--json"),
    ("plan",),
)
CHANGES = (("renew",), ("reload",), ("verify", "--json"))
# Runs a program where its core goes into a directory, as large as it is.
WITH_CORES = 'ulimit -c unlimited; cd "$0"; exec "$@"'


class Secrets:
    """What must not be found, by what it is."""

    def __init__(self) -> None:
        self.marks: dict[bytes, str] = {PASSWORD.encode(): "the password"}

    def add_token(self, name: str, token: str) -> str:
        # Its signature: what comes before it says who somebody is.
        self.marks[token.rpartition(".")[2][:40].encode()] = name
        return token

    def add_key(self, name: str, pem: bytes) -> None:
        """Each line of its text, and the numbers that it is made of."""
        for line in pem.splitlines()[1:-1]:
            if len(line) == 64:
                self.marks[line] = name
        key = serialization.load_pem_private_key(pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
        numbers = key.private_numbers()
        number = numbers.private_value if hasattr(numbers, "private_value") else numbers.d
        raw = number.to_bytes((number.bit_length() + 7) // 8, "big")[:24]
        self.marks |= {raw: name, raw[::-1]: name, raw.hex().encode(): name}
        self.marks[base64.b64encode(raw)] = name

    def found_in(self, data: bytes) -> set[str]:
        return {name for mark, name in self.marks.items() if mark in data}


class Watch:
    """Collects what every process says of itself, until it is stopped."""

    def __init__(self) -> None:
        self.seen: dict[bytes, str] = {}
        self.workers: set[str] = set()
        self._is_over = threading.Event()
        # A worker of this name in this network namespace is to crash as soon as one is seen.
        self.doomed, self.inode = "", 0
        self.killed: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        own = str(os.getpid())
        while not self._is_over.is_set():
            for pid in filter(str.isdigit, os.listdir("/proc")):
                if pid != own:
                    self._look(pid)

    def _look(self, pid: str) -> None:
        try:
            arguments = Path("/proc", pid, "cmdline").read_bytes()
            environment = Path("/proc", pid, "environ").read_bytes()
        except OSError:
            return
        words = arguments.split(b"\0")
        for kind, data in (("argument", arguments), ("environment", environment)):
            self.seen.setdefault(data, f"{kind} of {words[0].decode()}")
        if words[-2:-1] and b"launch.py" in arguments:
            name = words[-2].decode()
            self.workers.add(name)
            # In its first moments it has no secret yet, and has not said that it leaves no core.
            if name == self.doomed and core_limit(pid) in ("0", "1"):
                self._kill(pid, name)

    def _kill(self, pid: str, name: str) -> None:
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/net").st_ino == self.inode:
                os.kill(int(pid), signal.SIGSEGV)
                self.killed.append(name)
                self.doomed = ""


def core_limit(pid: str) -> str:
    """The size of a core that a process may leave, as the kernel says it."""
    try:
        lines = Path("/proc", pid, "limits").read_text().splitlines()
    except OSError:
        return ""
    return next(line.split()[4] for line in lines if line.startswith("Max core file size"))


@pytest.fixture
def watch() -> Iterator[Watch]:
    with Watch() as made:
        yield made


@pytest.fixture
def secrets() -> Secrets:
    return Secrets()


def plant(host: Host, authority: DemoAuthority, secrets: Secrets, metadata: str) -> None:
    """One of everything, none of them good: the CA refuses each in turn."""
    uid, gid = proxy_user()
    provided = host.directory / "provided"
    provided.mkdir()
    foreign = ca_material.foreign(authority.material)
    chain, key = ca_material.pair(
        foreign, "spiffe://cluster.local/ns/default/sa/default", life_s=3600.0
    )
    secrets.add_key("the provisioned key", key)
    for name, data in (("key.pem", key), ("cert-chain.pem", chain)):
        (provided / name).write_bytes(data)
        os.chown(provided / name, uid, gid)
    printed = secrets.add_token("the command's token", authority.token(ACCOUNT, audiences=["x"]))
    command = host.directory / "command"
    command.write_text(
        f"#!/bin/sh\nset -x\necho password={printed} >&2\necho '{printed}'\nexit 1\n"
    )
    command.chmod(0o755)
    host.write_token(secrets.add_token("the token", authority.token(ACCOUNT, audiences=["wrong"])))
    (host.directory / "password").write_text(f"{PASSWORD}\n")
    (host.directory / "password").chmod(0o600)
    outputs = (
        f"pem:{host.directory}/mesh.pem pkcs12:{host.directory}/mesh.p12,"
        f"password-file={host.directory}/password files:{host.directory}/set"
    )
    own = host.hostagent_env.read_text()
    host.hostagent_env.write_text(
        f"{own}ISTIO_HOSTAGENT_TOKEN_COMMAND='{command} a b'\nPROV_CERT={provided}\n"
        f"CREDENTIAL_FETCHER_TYPE=GoogleComputeEngine\nGCE_METADATA_HOST={metadata}\n"
        f'ISTIO_HOSTAGENT_OUTPUTS="{outputs}"\nISTIO_HOSTAGENT_RENEW_HOOK=/usr/bin/true\n'
    )


def places_of_secrets(host: Host) -> tuple[Path, ...]:
    """Where a secret belongs."""
    names = ("certs", "provided", "set", "command", "token", "password", "mesh.pem", "mesh.p12")
    return (*(host.directory / name for name in names), host.state / "certs")


def say_everything(
    host: Host, said: list[bytes], verbs: Iterable[tuple[str, ...]] = VERBS
) -> None:
    for words in verbs:
        done = host.verb(*words, is_checked=False)
        said.append(done.stdout.encode() + done.stderr.encode())


def crash(host: Host, watch: Watch, worker: str) -> None:
    """Let a worker crash that holds what is secret; the agent says which."""
    watch.inode = host.namespace.inode
    watch.doomed = worker

    def has_crashed() -> bool:
        host.verb("renew", is_checked=False)  # a short one may be gone before it is seen
        until = time.monotonic() + 3.0  # renewed again at once, the next one would mend it
        while worker not in watch.killed and time.monotonic() < until:
            time.sleep(0.01)
        return worker in watch.killed

    eventually(has_crashed, f"the worker {worker} has crashed")


def test_no_secret_is_left_where_it_does_not_belong(
    make_host: MakeHost, envoy: str, authority: DemoAuthority, secrets: Secrets, watch: Watch
) -> None:
    host = make_host(envoy=envoy)
    cores = host.directory / "cores"
    cores.mkdir(mode=0o777)
    cores.chmod(0o777)
    host.wrapper = ["/bin/bash", "-c", WITH_CORES, str(cores)]
    behaviour = Behaviour(
        make_token=lambda audience: secrets.add_token(
            "the cloud's document", authority.token(ACCOUNT, audiences=[audience, "wrong"][1:])
        )
    )
    said: list[bytes] = []
    with host.namespace.inside(lambda: MetadataServer(behaviour)) as metadata:
        plant(host, authority, secrets, metadata.address)
        configure(host)
        host.start()
        eventually(lambda: host.log_text().count("no certificate CODE=") > 0, "all are refused")
        tried = host.status()["certificate"]["credentials"]
        assert {each["kind"] for each in tried if each["reason"]} == {
            *("certificate", "provisioned", "command", "google", "token")
        }
        say_everything(host, said)
        host.write_token(secrets.add_token("the good token", authority.token(ACCOUNT)))
        host.verb("wait", "--timeout", "60")
        eventually(lambda: host.status()["outputs"]["state"] == "written", "the outputs")
        keep_keys(host, secrets)
        say_everything(host, said, VERBS + CHANGES)
        eventually(lambda: host.status()["outputs"]["state"] == "written", "the outputs")
        keep_keys(host, secrets)
        crash(host, watch, "outputs")
        eventually(lambda: host.status()["outputs"]["state"] == "failed", "its crash is told")
        authority.mode = Mode.MUTE
        crash(host, watch, "certificate")
        told = "worker certificate was ended by SIGSEGV"
        eventually(lambda: told in host.log_text(), "its crash is told")
        say_everything(host, said)
        authority.mode = Mode.OK
        agent = agent_pid(host)
        os.kill(agent, signal.SIGSEGV)
        assert host.agent is not None
        host.agent.wait(20)
        said.append(host.log_text().encode())
        host.agent = None
        host.start()
        host.verb("wait", "--timeout", "60")
        keep_keys(host, secrets)
        say_everything(host, said)
        host.stop()
    said.append(host.log_text().encode())
    assert watch.workers >= {"certificate", "outputs"}
    leaks = {name for text in said for name in secrets.found_in(text)}
    facts.never(leaks, f"said by a verb or in the journal: {leaks}")
    shown = {
        f"{name} as {where}"
        for data, where in watch.seen.copy().items()  # it goes on looking
        for name in secrets.found_in(data)
    }
    facts.never(shown, str(shown))
    dumped = list(cores.iterdir())
    if not Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"):
        # Of the agent, and of no worker.
        assert len(dumped) == 1, dumped
    allowed = places_of_secrets(host)
    searched = 0
    for path in host.directory.rglob("*"):
        is_own = path.is_file() and not path.is_symlink()
        if is_own and not any(path == each or each in path.parents for each in allowed):
            searched += 1
            facts.never(secrets.found_in(path.read_bytes()), str(path))
    assert searched > 5


def keep_keys(host: Host, secrets: Secrets) -> None:
    """Take down the keys that have been made so far and are still there."""
    for path in (host.state / "certs").rglob("key.pem"):
        if not path.is_symlink():
            secrets.add_key("a key", path.read_bytes())


def agent_pid(host: Host) -> int:
    """The agent itself, below what has started it."""
    for pid in host.namespace.pids():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[-2:-1] == [b"run"] and b"istio_hostagent" in words:
                return pid
    raise AssertionError("no agent")
