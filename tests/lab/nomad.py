"""A real Nomad, server and client in one, on a machine of the tests, from a program that is given.

    with Nomad(binary, client, directory) as nomad:
        nomad.start()
        nomad.command("job", "run", "-detach", "docs/nomad/shop.nomad.hcl")
        nomad.allocation("shop", "web").execute(["istio-hostagent", "status"])

No open-source release is in a registry that the tests may use, so nobody builds one here: 1.6 and
older are MPL. It leaves names in /run, which is the machine's own, and control groups, which are
removed with it. What it is told is what `docs/nomad` shows, and where it listens.
"""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.lab import layers, netns
from tests.lab.nomadclient import INTERFACE, Client
from tests.lab.waiting import eventually

VARIABLE = "ISTIO_HOSTAGENT_TEST_NOMAD"
CNI = Path("/usr/lib/cni/bridge")
_GROUPS = Path("/sys/fs/cgroup")
_PORT = 4646
_READY_S = 60.0
_PAUSE_S = 0.1
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A service that runs elsewhere, by a task that does nothing.
_ELSEWHERE = """
job "{name}" {{
  datacenters = ["dc1"]
  group "{name}" {{
    network {{
      port "port" {{
        static = {port}
      }}
    }}
    service {{
      name     = "{name}"
      provider = "nomad"
      port     = "port"
      address  = "{address}"
    }}
    task "nothing" {{
      driver = "raw_exec"
      config {{
        command = "/usr/bin/sleep"
        args    = ["infinity"]
      }}
    }}
  }}
}}
"""


def find_binary() -> Path:
    """The program that the variable names; skips, or fails on demand, with what is missing."""
    path = Path(os.environ.get(VARIABLE, ""))
    problem = "" if os.environ.get(VARIABLE) else f"needs a real Nomad: set {VARIABLE} to its path"
    if not problem and not os.access(path, os.X_OK):
        problem = f"{VARIABLE}={path} is no program"
    if not problem and not CNI.exists():
        problem = "a real Nomad needs containernetworking-plugins (apt)"
    layers.require("nomad", problem)
    return path.resolve()


class Nomad:
    """The process and its files. A context manager: left with nothing running.

    The client has /etc/nomad.d; `told` is what the process has said to its service manager.
    """

    PROGRAM = "/usr/local/bin/nomad"

    def __init__(self, binary: Path, client: Client, directory: Path) -> None:
        self.client = client
        self._binary = binary
        self._directory = directory / "real-nomad"
        self._log = self._directory / "log"
        self._process: subprocess.Popen[str] | None = None
        self._groups_before = set(_find_groups())
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.environment = {
            "NOMAD_ADDR": f"http://{client.address}:{_PORT}",
            "PATH": PATH,
            "HOME": "/root",
        }

    def __enter__(self) -> "Nomad":
        self._directory.mkdir()
        self._manager.bind(str(self._directory / "notify"))
        self.client.run(["install", "-m", "755", str(self._binary), self.PROGRAM])
        return self

    def start(self) -> None:
        """Start it and return when it is ready; raises LabError."""
        settings = {
            "bind_addr": self.client.address,
            "server": {"enabled": True, "bootstrap_expect": 1},
            "client": {
                "network_interface": INTERFACE,
                "servers": [self.client.address],
            },
            "disable_update_check": True,
        }
        (self._directory / "where.json").write_text(json.dumps(settings))
        words = [self.PROGRAM, "agent", "-config=/etc/nomad.d"]
        words.append(f"-config={self._directory / 'where.json'}")
        with self._log.open("a") as log:
            # As of a service manager: tasks inherit it.
            self._process = subprocess.Popen(
                self.client.argv(["sh", "-c", 'SYSTEMD_EXEC_PID=$$ exec "$@"', "sh", *words]),
                env={"PATH": PATH, "NOTIFY_SOCKET": str(self._directory / "notify")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )
        eventually(self._is_ready, f"Nomad is ready: {self._log}", within_s=_READY_S)

    def kill(self) -> None:
        """SIGKILL; its tasks go on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __exit__(self, *_exc: object) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    for job in self.get("jobs"):
                        self.stop(job["ID"])
            netns.end([self._process])
            self._process = None
        self._manager.close()
        for path in sorted(set(_find_groups()) - self._groups_before, reverse=True):
            path.rmdir()

    def command(
        self, *words: str, stdin: str = "", is_checked: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run one of its own commands; raises LabError."""
        return self.client.run(
            [self.PROGRAM, *words], env=self.environment, stdin=stdin, check=is_checked
        )

    def get(self, path: str) -> Any:
        """The JSON value at a path of its API; raises OSError, LabError."""
        connection = http.client.HTTPConnection(self.client.address, _PORT, timeout=60)
        connection.sock = self.client.namespace.connect(self.client.address, _PORT)
        try:
            connection.request("GET", f"/v1/{path}")
            answer = connection.getresponse()
            content = answer.read().decode()
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise netns.LabError(f"{path}: {answer.status}: {content}")
        return json.loads(content)

    def announce(self, name: str, address: str, port: int) -> None:
        """Have a service known that runs elsewhere."""
        path = self._directory / f"{name}.nomad.hcl"
        path.write_text(_ELSEWHERE.format(name=name, address=address, port=port))
        self.command("job", "run", "-detach", str(path))
        self.allocation(name, name)

    def stop(self, name: str) -> None:
        """Stop a job, and return when nothing of it is left on the client."""
        self.command("job", "stop", "-purge", "-yes", "-detach", name)
        eventually(lambda: not self.is_left(name), f"{name} has ended", within_s=_READY_S)

    def allocation(self, job: str, group: str) -> "RealAllocation":
        """Wait until a group runs with all its tasks."""
        found: list[dict[str, Any]] = []

        def is_up() -> bool:
            found[:] = [
                each
                for each in self.get(f"job/{job}/allocations")
                if each["TaskGroup"] == group
                and each["ClientStatus"] == "running"
                and all(
                    state["State"] == "running" or state["FinishedAt"]
                    for name, state in (each["TaskStates"] or {}).items()
                    if name != "left"
                )
            ]
            return bool(found)

        try:
            eventually(is_up, f"{group} of {job} runs", within_s=_READY_S)
        except AssertionError:
            print(self.command("job", "status", job, is_checked=False).stdout)
            for each in self.get(f"job/{job}/allocations"):
                print(self.command("alloc", "status", each["ID"], is_checked=False).stdout)
                print(RealAllocation(self, each["ID"]).log("agent")[-4000:])
            print(self.log_tail())
            raise
        return RealAllocation(self, found[0]["ID"])

    def told(self) -> str:
        """What the service manager was told, by whomever."""
        lines = []
        with contextlib.suppress(BlockingIOError):
            while True:
                lines.append(self._manager.recv(65536).decode())
        return "\n".join(lines)

    def log_tail(self) -> str:
        """The last lines of its log."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-60:])

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise netns.LabError(f"Nomad ended:\n{self.log_tail()}")
        time.sleep(_PAUSE_S)
        try:
            return [each["Status"] for each in self.get("nodes")] == ["ready"]
        except (OSError, http.client.HTTPException, netns.LabError):
            return False

    def is_left(self, job: str) -> bool:
        """Whether anything of a job runs."""
        time.sleep(_PAUSE_S)
        states = [each["ClientStatus"] for each in self.get(f"job/{job}/allocations")]
        return bool({"running", "pending"} & set(states))


class RealAllocation:
    """One group that runs; with what tests ask of the stand-in's."""

    def __init__(self, nomad: Nomad, number: str) -> None:
        self.id = number
        self._nomad = nomad
        self._client = nomad.client
        self._client.allocations.add(number)

    @property
    def ports(self) -> dict[str, int]:
        """Ports of the client, by label."""
        found = self._nomad.get(f"allocation/{self.id}")["AllocatedResources"]["Shared"]["Ports"]
        return {each["Label"]: each["Value"] for each in found or ()}

    def execute(
        self, words: Sequence[str], *, task: str = "agent", is_checked: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run something where a task runs; raises LabError."""
        flags = ["-i=false", "-t=false", f"-task={task}", self.id]
        return self._nomad.command("alloc", "exec", *flags, *words, is_checked=is_checked)

    def log(self, task: str) -> str:
        """What a task has said."""
        where = f"/var/lib/nomad/alloc/{self.id}/alloc/logs"
        words = ["sh", "-c", f"cat {where}/{task}.std*.* 2>/dev/null"]
        return self._client.run(words, check=False).stdout

    def state(self, task: str) -> dict[str, Any]:
        """What Nomad says of how a task has ended."""
        events = self._nomad.get(f"allocation/{self.id}")["TaskStates"][task]["Events"]
        (found,) = [each for each in events if each["Type"] == "Terminated"]
        return dict(found)

    def restarts(self, task: str) -> int:
        """How often Nomad has started a task again."""
        return int(self._nomad.get(f"allocation/{self.id}")["TaskStates"][task]["Restarts"])

    def pids(self) -> list[int]:
        """Give the processes that have its number in their environment."""
        mark = f"NOMAD_ALLOC_ID={self.id}\0".encode()
        return [pid for pid in self._client.pids() if mark in _environment(pid)]

    def tables(self) -> set[str]:
        """The names of the nf_tables tables in its network namespace."""
        words = ["ip", "netns", "exec", self.id, "nft", "-j", "list", "tables"]
        listing = json.loads(self._client.run(words).stdout)["nftables"]
        return {each["table"]["name"] for each in listing if "table" in each}


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _find_groups() -> Iterator[Path]:
    """Control groups of Nomad's, those of both versions."""
    for top in (_GROUPS, *_GROUPS.glob("*")):
        for name in ("nomad", "nomad.slice"):
            if (top / name).is_dir():
                yield top / name
                yield from (each for each in (top / name).rglob("*") if each.is_dir())
