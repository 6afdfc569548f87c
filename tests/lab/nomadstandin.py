"""Allocations as Nomad makes them, without Nomad: directories, namespaces, tasks in their order.

    nomad = StandIn(client, {"nomad/jobs/shop/web": {"token": "…"}})
    with nomad.start(job, "web") as web:
        web.execute(["istio-hostagent", "status"])

A task of driver raw_exec gets the network namespace of its group and nothing else; one of driver exec
process numbers, mounts and a root of its own as well, and no capability. What is done here is what
the sources of Nomad 1.4 do, and the same tests run with a real one (`nomad`).
"""

import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab import netns, nomadjob
from tests.lab.nomadclient import Client
from tests.lab.waiting import eventually

BRIDGE = "nomad"
NETWORK = "172.26.64.0/20"
GATEWAY = "172.26.64.1/20"
PREFIX = "172.26.64."
_FIRST_PORT = 20000
_PRESTART_S = 120.0
# What a service manager has told Nomad is inherited by its tasks, for whom it is not.
_OF_NOMAD = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SYSTEMD_EXEC_PID": str(os.getpid()),
    "INVOCATION_ID": "0" * 32,
    "FDSTORE": "8",
}
_CHROOT = """
set -e
root=$1; shift
mount --rbind "$root" "$root"
mkdir -p "$root/proc" "$root/dev"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot "$root" "$@"
"""


class StandIn:
    """What a server and a client of Nomad do together. `variables`: by path, as Nomad has them."""

    def __init__(self, client: Client, variables: Mapping[str, Mapping[str, str]]) -> None:
        self.client = client
        self.variables = variables
        self.services: dict[str, list[tuple[str, int]]] = {}
        # What tasks of driver exec find, by where it is here.
        self.chroot_env: Mapping[str, str] = {}
        self._made = 0
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._manager.bind(str(self.notify_socket))
        client.namespace.ip("link", "add", BRIDGE, "type", "bridge")
        client.namespace.add_address(BRIDGE, GATEWAY)
        client.namespace.ip("link", "set", BRIDGE, "up")
        rules = (
            "table ip nomad {\n"
            " map ports { type inet_service : ipv4_addr . inet_service; }\n"
            " chain to { type nat hook prerouting priority -100;"
            " fib daddr type local dnat ip to tcp dport map @ports; }\n"
            " chain out { type nat hook output priority -100;"
            " fib daddr type local dnat ip to tcp dport map @ports; }\n"
            f" chain from {{ type nat hook postrouting priority 100;"
            f" ip saddr {NETWORK} ip daddr != {NETWORK} masquerade; }}\n"
            "}\n"
        )
        self.nft(rules)

    @property
    def notify_socket(self) -> Path:
        """Where its service manager wants to hear of it."""
        return self.client.directory / "notify"

    def close(self) -> None:
        """Let go of what is not the client's."""
        self._manager.close()

    def is_manager_told(self) -> bool:
        """Whether somebody has told its service manager something."""
        try:
            return bool(self._manager.recv(65536))
        except BlockingIOError:
            return False

    def nft(self, text: str) -> None:
        """Change rules of the client, which is a namespace of the test's own."""
        self.client.namespace.run(["nft", "-f", "-"], stdin=text, check=True)

    def start(
        self, job: nomadjob.Job, group: str, *, has_pid_namespace: bool = False
    ) -> "Allocation":
        """Start a group; returns when its main tasks run. Raises LabError.

        `has_pid_namespace`: for tasks of raw_exec as well, as in a container.
        """
        self._made += 1
        made = Allocation(self, job, job.groups[group], self._made, has_pid_namespace)
        made.start()
        return made

    def know(self) -> nomadjob.Known:
        """What templates are filled in with."""
        return nomadjob.Known(lambda name: tuple(self.services.get(name, ())), self.variables)


class Allocation:
    """One group that runs. A context manager: left stopped."""

    def __init__(
        self,
        nomad: StandIn,
        job: nomadjob.Job,
        group: nomadjob.Group,
        number: int,
        has_pid_namespace: bool,
    ) -> None:
        self.id = str(uuid.uuid4())
        self.group = group
        self.address = f"{PREFIX}{number + 1}"
        self.directory = nomad.client.directory / "nomad/alloc" / self.id
        first = _FIRST_PORT + 100 * number
        self.ports = {
            label: group.static.get(label, first + offset)
            for offset, label in enumerate(group.ports)
        }
        self._nomad = nomad
        self._client = nomad.client
        self._client.allocations.add(self.id)
        self._job = job
        self._has_pid_namespace = has_pid_namespace
        self._link = f"veth{number}"
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._services: list[tuple[str, tuple[str, int]]] = []

    def __enter__(self) -> "Allocation":
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        if kind is not None:
            for name in self.group.tasks:
                print(f"--- {self.group.name}: {name}\n{self.log(name)[-6000:]}")
        self.stop()

    # -- its life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Make it all, and start the tasks in their order; raises LabError."""
        self._make_directories()
        self._make_network()
        tasks = self.group.tasks.values()
        try:
            for task in tasks:
                if task.hook == "prestart":
                    self._spawn(task)
            for task in tasks:
                if task.hook == "prestart" and not task.is_sidecar:
                    self._finish(task)
            for task in tasks:
                if not task.hook:
                    self._spawn(task)
        except BaseException:
            self.stop()
            raise
        for service in self.group.services:
            place = (self._client.address, self.ports[service.port])
            self._services.append((service.name, place))
            self._nomad.services.setdefault(service.name, []).append(place)

    def stop(self) -> dict[str, int]:
        """End the tasks in their order; gives the status of each that had not ended before.

        Main tasks first, sidecars when these have ended, then those of the hook poststop.
        """
        for name, place in self._services:
            self._nomad.services[name].remove(place)
        self._services = []
        found: dict[str, int] = {}
        for is_sidecar in (False, True):
            for name in [each for each in self._running if self._is_sidecar(each) == is_sidecar]:
                found[name] = self._end(self.group.tasks[name])
        for task in self.group.tasks.values():
            if task.hook == "poststop" and self.directory.exists():
                self._spawn(task)
                self._finish(task)
        self._remove()
        return found

    def end(self, name: str, sign: int = 0) -> int:
        """End a task as Nomad does, by its own signal or by this one, and give its status."""
        return self._end(self.group.tasks[name], sign)

    def begin(self, name: str) -> None:
        """Start a task where it was, as Nomad does with one that failed."""
        self._spawn(self.group.tasks[name])

    def begin_if_ended(self, name: str) -> None:
        """Start a task again that has ended, as the stanza `restart` says."""
        if name in self._running and self._running[name].poll() is not None:
            self.begin(name)

    def pid(self, name: str) -> int:
        """The process of a task: as seen from here, number 1 of its own PID namespace if any."""
        process = self._running[name]
        if not self._is_apart(self.group.tasks[name]):
            return process.pid
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        eventually(lambda: bool(children.read_text().split()), f"{name} has begun")
        return int(children.read_text().split()[0])

    # -- looking at it --------------------------------------------------------------------------

    def execute(
        self, words: Sequence[str], *, task: str = "agent", is_checked: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run something where a task runs, as `nomad alloc exec`; raises LabError."""
        found = self.group.tasks[task]
        return self._client.run(
            self._inside(found, words), env=self.environment(found), check=is_checked
        )

    def environment(self, task: nomadjob.Task) -> dict[str, str]:
        """What a task finds in its environment."""
        is_apart = task.driver == "exec"
        own = self.directory / task.name
        known = {
            **_OF_NOMAD,
            "NOTIFY_SOCKET": str(self._nomad.notify_socket),
            "NOMAD_ALLOC_ID": self.id,
            "NOMAD_ALLOC_DIR": "/alloc" if is_apart else str(self.directory / "alloc"),
            "NOMAD_TASK_DIR": "/local" if is_apart else str(own / "local"),
            "NOMAD_SECRETS_DIR": "/secrets" if is_apart else str(own / "secrets"),
            "NOMAD_TASK_NAME": task.name,
            "NOMAD_GROUP_NAME": self.group.name,
            "NOMAD_JOB_NAME": self._job.name,
        }
        stated = {key: nomadjob.interpolate(text, known) for key, text in task.environment.items()}
        return {**known, **stated, **self._read_environment(task, known)}

    def log(self, task: str) -> str:
        """What a task has said."""
        path = self.directory / f"alloc/logs/{task}"
        return path.read_text(errors="replace") if path.exists() else ""

    def pids(self) -> list[int]:
        """Give the processes in its network namespace."""
        found = self._client.run(["ip", "netns", "pids", self.id]).stdout
        return [int(word) for word in found.split()]

    def tables(self) -> set[str]:
        """The names of the nf_tables tables in its network namespace."""
        words = ["ip", "netns", "exec", self.id, "nft", "-j", "list", "tables"]
        listing = json.loads(self._client.run(words).stdout)["nftables"]
        return {each["table"]["name"] for each in listing if "table" in each}

    # -- how ------------------------------------------------------------------------------------

    def _is_sidecar(self, name: str) -> bool:
        return self.group.tasks[name].is_sidecar

    def _is_apart(self, task: nomadjob.Task) -> bool:
        return task.driver == "exec" or self._has_pid_namespace

    def _make_directories(self) -> None:
        # Modes as Nomad's: who knows the number of an allocation may pass.
        self.directory.mkdir(parents=True)
        self.directory.parent.chmod(0o711)
        self.directory.parent.parent.chmod(0o755)
        for name in ("alloc", "alloc/data", "alloc/logs", "alloc/tmp"):
            (self.directory / name).mkdir()
            (self.directory / name).chmod(0o777)
        for task in self.group.tasks.values():
            for each in (task.name, f"{task.name}/local", f"{task.name}/secrets"):
                (self.directory / each).mkdir()
                (self.directory / each).chmod(0o777)
            where = str(self.directory / task.name / "secrets")
            self._client.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", where])
            if task.driver == "exec":
                self._make_root(task)

    def _make_root(self, task: nomadjob.Task) -> None:
        root = self.directory / task.name
        pairs = "".join(
            f"{source}\n{root}{target}\n" for source, target in self._nomad.chroot_env.items()
        )
        loop = 'while read -r from; do read -r to; mkdir -p "${to%/*}"; cp -aT "$from" "$to"; done'
        self._client.run(["sh", "-c", loop], stdin=pairs)
        for name in ("alloc", "tmp"):
            (root / name).mkdir(exist_ok=True)
            (root / name).chmod(0o777)
        self._client.run(["mount", "--bind", str(self.directory / "alloc"), str(root / "alloc")])

    def _make_network(self) -> None:
        run, host = self._client.run, self._client.namespace
        run(["ip", "netns", "add", self.id])
        inside = ["ip", "-n", self.id]
        run(["ip", "link", "add", self._link, "type", "veth", "peer", "eth0", "netns", self.id])
        host.ip("link", "set", self._link, "master", BRIDGE, "up")
        for words in (
            ["link", "set", "lo", "up"],
            ["link", "set", "eth0", "up"],
            ["address", "add", f"{self.address}/{NETWORK.partition('/')[2]}", "dev", "eth0"],
            ["route", "add", "default", "via", GATEWAY.partition("/")[0]],
        ):
            run([*inside, *words])
        for label, inner in self.group.ports.items():
            place = f"{self.ports[label]} : {self.address} . {inner}"
            self._nomad.nft(f"add element ip nomad ports {{ {place} }}")

    def _remove(self) -> None:
        if not self.directory.exists():
            return
        for label in self.group.ports:
            self._nomad.nft(f"delete element ip nomad ports {{ {self.ports[label]} }}")
        self._client.run(["ip", "link", "delete", self._link])
        self._client.run(["ip", "netns", "delete", self.id])
        for name, task in self.group.tasks.items():
            if task.driver == "exec":
                self._client.run(["umount", str(self.directory / name / "alloc")])
            self._client.run(["umount", str(self.directory / name / "secrets")])
        logs = {name: self.log(name) for name in self.group.tasks}
        self._client.run(["rm", "-rf", "--one-file-system", str(self.directory)])
        self.last_words = logs

    def _inside(self, task: nomadjob.Task, words: Sequence[str]) -> list[str]:
        """The command line that runs as this task does, on the client."""
        user = []
        if task.user:
            entry = pwd.getpwnam(task.user)
            user = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}"]
            user += ["--clear-groups", "--"]
        inside = ["nsenter", f"--net=/run/netns/{self.id}", "--"]
        if task.driver != "exec":
            apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
            return [*inside, *(apart if self._has_pid_namespace else []), *user, *words]
        apart = ["unshare", "--pid", "--ipc", "--mount", "--fork", "--kill-child", "--"]
        nothing = ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
        return [
            *(*inside, *apart, "sh", "-c", _CHROOT, "sh", str(self.directory / task.name)),
            *(*user[:-1], *nothing, "--no-new-privs", "--", *words),
        ]

    def _spawn(self, task: nomadjob.Task) -> None:
        environment = self.environment(task)
        self._render(task, environment)
        environment = self.environment(task)
        words = [nomadjob.interpolate(word, environment) for word in task.argv]
        with (self.directory / f"alloc/logs/{task.name}").open("a") as log:
            self._running[task.name] = subprocess.Popen(
                self._client.argv(self._inside(task, words)),
                env=environment,
                cwd=self.directory / task.name,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def _render(self, task: nomadjob.Task, environment: Mapping[str, str]) -> None:
        for each in task.templates:
            path = self.directory / task.name / each.destination
            text = nomadjob.render(each.data, environment, self._nomad.know())
            words = ["-c", 'cat >"$1" && chmod "$2" "$1" && chown "$3" "$1"', "sh", str(path)]
            owner = f"{each.uid or 0}:{each.gid or 0}"
            self._client.run(["sh", *words, f"{each.mode:o}", owner], stdin=text)

    def _read_environment(self, task: nomadjob.Task, known: Mapping[str, str]) -> dict[str, str]:
        texts = (
            nomadjob.render(each.data, known, self._nomad.know())
            for each in task.templates
            if each.is_environment
        )
        lines = (line for text in texts for line in text.splitlines() if "=" in line)
        return {key: value for key, _, value in (line.partition("=") for line in lines)}

    def _finish(self, task: nomadjob.Task) -> None:
        process = self._running[task.name]
        try:
            status = process.wait(_PRESTART_S)
        except subprocess.TimeoutExpired:
            status = self._end(task, signal.SIGKILL)
        self._running.pop(task.name, None)
        if status:
            agent = self.log("agent")[-8000:]
            raise netns.LabError(f"{task.name}: status {status}: {self.log(task.name)}\n{agent}")

    def _end(self, task: nomadjob.Task, sign: int = 0) -> int:
        """Its signal, then SIGKILL to itself and to what it has left."""
        process = self._running[task.name]
        with contextlib.suppress(ProcessLookupError):
            if process.poll() is None:
                os.kill(self.pid(task.name), sign or signal.Signals[task.kill_signal])
        try:
            status = process.wait(task.kill_timeout_s)
        except subprocess.TimeoutExpired:
            os.kill(self.pid(task.name), signal.SIGKILL)
            status = process.wait(30)
        del self._running[task.name]
        return status
