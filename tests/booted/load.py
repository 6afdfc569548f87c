"""Requests under way between two machines while something happens to one of them.

New connections at a rate and a few that live as long as the load, in both directions; each request
is one of HTTP. What becomes of them is counted by who knows: each client tells how many
it has made and which have failed, and a table of the test's own, behind all rules, counts what
leaves the machine, or reaches its application, and has not passed its proxy. An ssh session of the
machine sends a byte and gets it back, again and again: how long it took at most is told.
"""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.lab import soak

# New connections a second in each direction, each with two handshakes: many more than that, and two
# machines on a busy one have no time for anything else.
RATE = soak.times(15, 200)
# Connections that live as long as the load, in each direction; each carries 20 requests a second,
# so that a soak has a thousand.
KEPT = soak.times(4, 40)
_TABLE = "around"
# A SYN of 40 bytes, without any option, is a probe of the agent's, which it drops itself.
_WATCH = """
table inet {table} {{
  chain leaving {{
    type filter hook postrouting priority 300; policy accept;
    oifname "eth0" tcp dport {port} tcp flags & (syn|ack) == syn meta skuid != istio-proxy \
      meta length > 40 counter
  }}
  chain arriving {{
    type filter hook input priority 300; policy accept;
    iifname "eth0" tcp dport {port} tcp flags & (syn|ack) == syn meta length > 40 counter
  }}
}}
"""
_ECHO = """\
import asyncio, sys
async def serve(reader, writer):
    try:
        while await reader.readuntil(b"\\r\\n\\r\\n"):
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nx\\n")
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    writer.close()
async def main():
    async with await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[1]), backlog=4096) as it:
        await it.serve_forever()
asyncio.run(main())
"""
# Arguments: address, port, rate, how many are kept. Until its standard input ends.
_CLIENT = """\
import asyncio, json, sys, time
address, port, rate, kept = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
told = {"new": 0, "kept": 0, "failures": [], "slowest_s": 0.0}
is_over = asyncio.Event()
async def exchange(reader, writer):
    at = time.monotonic()
    writer.write(f"GET / HTTP/1.1\\r\\nhost: {address}\\r\\n\\r\\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\\r\\n\\r\\n"), 10)
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"the answer is {head[:20]}")
    await asyncio.wait_for(reader.readexactly(2), 10)
    told["slowest_s"] = max(told["slowest_s"], time.monotonic() - at)
def failed(what, error):
    told["failures"].append(f"{what} at {time.monotonic() - began:.2f}: {error!r}")
async def once():
    told["new"] += 1
    writer = None
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 10)
        await exchange(reader, writer)
    except (OSError, EOFError, asyncio.TimeoutError) as error:
        failed("new", error)
    if writer is not None:
        writer.close()
async def keep():
    while not is_over.is_set():
        writer = None
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 10)
            while not is_over.is_set():
                told["kept"] += 1
                await exchange(reader, writer)
                await asyncio.sleep(0.05)
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            failed("kept", error)
            await asyncio.sleep(0.05)
        if writer is not None:
            writer.close()
async def main():
    global began
    began = time.monotonic()
    asyncio.get_running_loop().add_reader(0, is_over.set)
    keepers = [asyncio.create_task(keep()) for _ in range(kept)]
    tasks = set()
    made = 0
    print("begun", flush=True)
    while not is_over.is_set():
        task = asyncio.create_task(once())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        made += 1
        await asyncio.sleep(max(began + made / rate - time.monotonic(), 0))
    await asyncio.gather(*tasks, *keepers)
    told["seconds"] = time.monotonic() - began
    print(json.dumps(told), flush=True)
asyncio.run(main())
"""
# Arguments: a command that sends back what it reads. Until its standard input ends.
_ECHOED = """\
import json, select, subprocess, sys, time
told = {"echoes": 0, "slowest_ms": 0.0}
with subprocess.Popen(sys.argv[1:], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ssh:
    def exchange():
        at = time.monotonic()
        ssh.stdin.write(b"x")
        if not select.select([ssh.stdout], [], [], 30)[0] or not ssh.stdout.read(1):
            sys.exit("the session has ended")
        return 1000 * (time.monotonic() - at)
    exchange()
    print("begun", flush=True)
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        told["slowest_ms"] = max(told["slowest_ms"], exchange())
        told["echoes"] += 1
    ssh.stdin.close()
print(json.dumps(told), flush=True)
"""


def serve(machine: machines.Machine) -> None:
    """Run the application that sends lines back, as an ordinary user, at `mesh.PORT`."""
    machine.write("/opt/echo.py", _ECHO)
    command = f"/usr/bin/python3 /opt/echo.py {mesh.PORT}"
    machine.write(
        "/etc/systemd/system/echo.service",
        f"[Service]\nUser=nobody\nExecStart={command}\n[Install]\nWantedBy=multi-user.target\n",
    )
    machine.run("systemctl", "enable", "--now", "--quiet", "echo.service")
    listening = ["ss", "-Hltn", "sport", "=", f":{mesh.PORT}"]
    network.wait_until(lambda: bool(machine.run(*listening).stdout), f"{machine.name} serves")


@dataclass
class Found:
    """What became of the requests of both directions, once the load is over."""

    counts: list[dict[str, Any]] = field(default_factory=list)
    around: list[int] = field(default_factory=list)  # leaving, arriving
    ssh: dict[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """Every request that got no answer."""
        return [text for each in self.counts for text in each["failures"]]

    def __str__(self) -> str:
        """The figures, for a report."""
        parts = [
            f"{each['new']} new, {each['kept']} on {KEPT} kept in {each['seconds']:.1f} s,"
            f" {len(each['failures'])} failed, slowest {each['slowest_s']:.2f} s"
            for each in self.counts
        ]
        ssh = f"ssh: {self.ssh['slowest_ms']:.0f} ms at most of {self.ssh['echoes']}"
        return f"out: {parts[0]}; in: {parts[1]}; around: {sum(self.around)}; {ssh}"


@contextlib.contextmanager
def between(
    machine: machines.Machine, other: machines.Machine, rate: float = RATE
) -> Iterator[Found]:
    """Ask in both directions during the block; what is found is complete behind it."""
    machine.write("/opt/around.nft", _WATCH.format(table=_TABLE, port=mesh.PORT))
    machine.run("nft", "-f", "/opt/around.nft")
    found = Found()
    clients = [_client(machine, other, rate), _client(other, machine, rate), _session(machine)]
    try:
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "begun\n"
        yield found
        *found.counts, found.ssh = [_end(client) for client in clients]
    finally:
        for client in clients:
            client.kill()
            with client:
                pass
    listing = machine.run("nft", "list", "table", "inet", _TABLE).stdout
    words = listing.split()
    found.around = [int(words[i + 1]) for i, word in enumerate(words) if word == "packets"]
    machine.run("nft", "delete", "table", "inet", _TABLE)


def _end(client: "subprocess.Popen[str]") -> dict[str, Any]:
    told, _ = client.communicate(timeout=60)
    assert client.returncode == 0, client.args
    return dict(json.loads(told))


def _session(machine: machines.Machine) -> "subprocess.Popen[str]":
    ssh = machine.cluster.ssh_command(machine.address, "cat")
    return subprocess.Popen(
        ["/usr/bin/python3", "-c", _ECHOED, *ssh],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _client(
    machine: machines.Machine, other: machines.Machine, rate: float
) -> "subprocess.Popen[str]":
    machine.write("/opt/load.py", _CLIENT)
    words = ["/usr/bin/python3", "/opt/load.py", other.address, str(mesh.PORT), str(rate)]
    nobody = ["setpriv", "--reuid", "nobody", "--clear-groups"]
    return subprocess.Popen(
        machine.command(*nobody, *words, str(KEPT)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
