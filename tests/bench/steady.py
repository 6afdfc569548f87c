"""Agents that have been in the mesh for a while: repair, verification, wake-ups, memory.

Several hosts, so that flushes can follow one another without any agent taking them for a fight
(it waits longer after more than eight repairs in ten seconds). A flush is one transaction of this
process that deletes our tables, as `nft flush ruleset` does; it begins when it is sent. The rules
are back when the kernel announces the agent's transaction, proven again when the agent says so.
"""

import contextlib
import os
import select
import time
from collections.abc import Iterator

from istio_hostagent.host import changes
from istio_hostagent.host.nfnetlink import connection, messages
from istio_hostagent.redirect import model

from . import agentlog, cost, joining, rows, site

HOSTS = 3
FLUSHES = 51
PAUSE_S = 0.45  # between two flushes: each host repairs less than eight times in ten seconds
VERIFY_ROUNDS = 3
IDLE_S, LONG_IDLE_S = 20.0, 60.0
SETTLE_S = 3.0
KEYS = ("rss", "pss", "uss", "verify-asked", "flush", "flush-rules", "wakeups")


def measure(here: site.Site, *, is_long: bool) -> rows.Outcomes:
    """All rows of KEYS. Raises NotMeasured, LabError."""
    with contextlib.ExitStack() as stack:
        hosts = [stack.enter_context(here.host()) for _ in range(HOSTS)]
        for host in hosts:
            host.start(has_envoy=True)
            host.wait_for(site.IN_MESH)
        time.sleep(SETTLE_S)
        fresh = rows.make_result([cost.memory_mb(host.pid)[0] for host in hosts])
        verify = _verify(hosts)
        rules, proven = _flushes(hosts)
        time.sleep(SETTLE_S)
        idle_s = LONG_IDLE_S if is_long else IDLE_S
        wakeups, of_envoy = _idle(hosts, idle_s)
        memory = [cost.memory_mb(host.pid) for host in hosts]
        bare = _bare_memory()
    samples = f"{HOSTS} agents after {FLUSHES} repairs; freshly joined {fresh.samples.median:.1f}"
    result: dict[str, rows.Result | rows.Missing] = {
        key: rows.make_result(
            [found[index] for found in memory],
            {"a bare python3": [bare[index]]},
            (f"{samples} MB RSS",) if key == "rss" else (),
        )
        for index, key in enumerate(("rss", "pss", "uss"))
    }
    result["verify-asked"] = verify
    middle = [rows.make_result(found).samples.median for found in (rules, proven)]
    note = (
        f"{FLUSHES} flushes, so p99 is the slowest, from the flush being sent; medians:"
        f" rules back {middle[0]:.1f} ms, proven again {middle[1]:.1f} ms"
    )
    result["flush"] = rows.make_result(proven, notes=(note,))
    result["flush-rules"] = rows.make_result(rules)
    result["wakeups"] = rows.make_result(
        [wakeups],
        {"its Envoy": [of_envoy]},
        (f"voluntary context switches of all threads, mean of {HOSTS} agents over {idle_s:g} s",),
    )
    return result


def _verify(hosts: list[site.Host]) -> rows.Result | rows.Missing:
    """Each agent verifies a few times; one that finds something wrong spoils only this row."""
    try:
        return rows.make_result(
            [host.ask("verify") for _ in range(VERIFY_ROUNDS) for host in hosts]
        )
    except cost.NotMeasured as error:
        return rows.Missing(str(error))


def _flushes(hosts: list[site.Host]) -> tuple[list[float], list[float]]:
    """Flush one host after another; ms until the rules were back, and until they were proven."""
    rules: list[float] = []
    proven: list[float] = []
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(_link(host)) for host in hosts]
        for number in range(FLUSHES):
            host, (link, monitor) = hosts[number % HOSTS], links[number % HOSTS]
            monitor.read()
            began = flush(link)
            rules.append(_wait_for_commit(monitor, host.pid) - began)
            proven.append(host.wait_for(site.PROVEN, since_ms=began))
            # Not to wait for anything: only to stay below the rate that looks like a fight.
            time.sleep(PAUSE_S)
    return rules, proven


@contextlib.contextmanager
def _link(
    host: site.Host,
) -> Iterator[tuple[connection.Connection, changes.ChangeMonitor]]:
    link = host.namespace.inside(connection.Connection)
    monitor = host.namespace.inside(changes.ChangeMonitor)
    try:
        yield link, monitor
    finally:
        link.socket.close()
        monitor.close()


def flush(link: connection.Connection) -> float:
    """Delete all our tables in one transaction, as somebody else would; returns when (in ms)."""
    generation = link.generation()
    there = sorted(messages.read_table(body).name for body in link.dump(messages.GETTABLE))
    ours = [name for name in there if name in model.OUR_TABLES]
    parts = [messages.delete_table(name) for name in ours]
    began = cost.now_ms()
    link.commit(parts, lambda: generation)
    return began


def _wait_for_commit(monitor: changes.ChangeMonitor, pid: int) -> float:
    """When the next transaction of this process was announced; raises NotMeasured."""
    end = cost.now_ms() + agentlog.PATIENCE_S * 1000.0
    while (left := end - cost.now_ms()) > 0:
        if select.select([monitor.fileno()], [], [], left / 1000.0)[0]:
            at = cost.now_ms()
            if any(change.pid == pid for change in monitor.read()):
                return at
    raise cost.NotMeasured("the flushed rules did not come back")


def _idle(hosts: list[site.Host], seconds: float) -> tuple[float, float]:
    """Wake-ups a minute of an agent and of an Envoy while nothing happens.

    Means of all hosts: with two a minute, each alone would show none or several.
    """
    agents = [host.pid for host in hosts]
    proxies = [joining.find_proxy(host) for host in hosts]

    def count(pids: list[int]) -> int:
        return sum(map(cost.voluntary_switches, pids))

    before = count(agents), count(proxies)
    began = cost.now_ms()
    time.sleep(seconds)
    minutes = (cost.now_ms() - began) / 60_000.0 * len(hosts)
    return (count(agents) - before[0]) / minutes, (count(proxies) - before[1]) / minutes


def _bare_memory() -> tuple[float, float, float]:
    """What an interpreter takes that has imported nothing."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    code = "import os, signal; os.write(1, b'x'); signal.pause()"
    pid = cost.spawn([cost.PYTHON, "-c", code], output=write_end)
    try:
        os.close(write_end)
        os.read(read_end, 1)
        return cost.memory_mb(pid)
    finally:
        os.close(read_end)
        cost.kill(pid)
