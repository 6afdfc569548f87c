"""What the resident process carries for as long as it lives."""

import subprocess
from pathlib import Path

import pytest

from tests.lab import soak
from tests.lab.host import PYTHON, Host
from tests.lab.waiting import eventually
from tests.netns.conftest import MakeHost, configure, join

# Extension modules that come with hashlib and ssl, and what they are linked to. Those of the
# compression libraries come with watchdog, which imports ctypes.util and never uses it.
FOREIGN = {"_hashlib", "_ssl", "libcrypto", "libssl"}


def libraries(maps: str) -> set[str]:
    """The names of the libraries in a text of proc_pid_maps(5), without versions."""
    paths = [words[5] for line in maps.splitlines() if len(words := line.split()) > 5]
    return {Path(path).name.split(".")[0] for path in paths if ".so" in path}


def mapped_by(host: Host) -> set[str]:
    """The libraries of a host's agent; its launcher has become it by exec."""
    assert host.agent is not None
    return libraries(Path(f"/proc/{host.agent.pid}/maps").read_text())


def mapped_by_nobody() -> set[str]:
    """Those that this machine gives to every interpreter."""
    show = [PYTHON, "-c", "print(open('/proc/self/maps').read())"]
    return libraries(subprocess.run(show, capture_output=True, text=True, check=True).stdout)


def test_a_watching_agent_carries_no_library_that_nothing_uses(make_host: MakeHost) -> None:
    host = make_host()
    configure(host)
    host.start()
    # The watcher is the last that an agent loads, and the only one that needs this.
    eventually(lambda: "_ctypes" in mapped_by(host), "files are watched")
    eventually(lambda: host.verb("status", is_checked=False).stdout != "", "it answers")
    host.write_sidecar("ISTIO_INBOUND_PORTS=9x\n")
    eventually(lambda: "9x" in "".join(host.status()["configuration"]["problems"]), "noticed")
    assert not mapped_by(host) & FOREIGN - mapped_by_nobody()


@pytest.mark.envoy
def test_reloads_of_always_other_networks_do_not_raise_the_memory_for_ever(
    make_host: MakeHost, envoy: str
) -> None:
    """Each one that stayed anywhere, as text or as rules, would be 0.1 MB."""
    host = make_host(envoy=envoy)
    join(host)

    def reload(turn: int) -> None:
        networks = (f"{11 + turn % 90}.{i // 128}.{i % 128 * 2}.0/24" for i in range(10_000))
        configure(host, ISTIO_SERVICE_CIDR=",".join(networks))
        host.verb("reload")

    def resident_kb() -> int:
        assert host.agent is not None
        status = Path(f"/proc/{host.agent.pid}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0])

    for turn in range(5):
        reload(turn)
    host.verb("wait", "--timeout", "60")
    before = resident_kb()
    turns = soak.times(20, 300)
    for turn in range(5, 5 + turns):
        reload(turn)
    eventually(lambda: resident_kb() - before < 1000, "no more than before")
