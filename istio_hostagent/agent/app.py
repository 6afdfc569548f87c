"""The composition root: the only place that constructs real ports and joins them to the loop."""

import logging
import os
import signal
from collections.abc import Mapping

from ..config import model
from ..errors import AgentRunning
from ..host import (
    changes,
    clock,
    control,
    files,
    garbage,
    mailbox,
    nftables,
    notify,
    rtmonitor,
    signals,
    watch,
)
from ..lifecycle import life
from . import (
    certificate,
    components,
    configuration,
    events,
    loop,
    machine,
    performer,
    places,
    prober,
    proxy,
    redirection,
    reload,
    statedir,
    tasks,
)

logger = logging.getLogger(__name__)


def run(environment: Mapping[str, str]) -> None:
    """Be the agent of this network namespace until SIGTERM.

    Raises AgentRunning if another agent is, HostUnsupported, NotPermitted.
    """
    lock = control.Lock()
    if not lock.take():
        raise AgentRunning("another agent or verb works in this network namespace")
    host, sources = reload.probe_host(environment)
    files.make_directory(host.state_dir)
    files.make_directory(host.runtime_dir)
    inbox: mailbox.Mailbox[events.Event] = mailbox.Mailbox()
    notifier = notify.Notifier(environment)
    stored = notify.take_stored(environment, performer.STORED_SOCKET)
    kernel = nftables.NftKernel(stored, is_owner=notify.has_store(environment))
    system_clock = clock.SystemClock()
    work = tasks.Tasks(inbox, system_clock)
    packets = prober.Prober(work, system_clock)
    keeper = redirection.RedirectionPart(kernel, packets, system_clock)
    monitor = changes.ChangeMonitor(kernel.port)
    inbox.watch(monitor.fileno(), lambda: _changes(monitor, keeper))
    network = rtmonitor.Monitor()
    inbox.watch(network.fileno(), lambda: _network_changes(network))
    signals.deliver((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), inbox, events.Signalled)
    state = statedir.StateDirectory(host.state_dir, system_clock)
    machine_part = machine.MachinePart(host, state, system_clock)
    parts = components.Components(
        inbox=inbox,
        clock=system_clock,
        kernel=kernel,
        watcher=watch.FileWatcher(lambda: inbox.post(events.FilesChanged())),
        notifier=notifier,
        work=work,
        packets=packets,
        state=state,
        machine=machine_part,
        configuration=configuration.ConfigurationPart(sources, host),
        certificate=certificate.CertificatePart(work, system_clock, host),
        redirection=keeper,
        proxy=proxy.ProxyPart(inbox, work, system_clock, _record(host)),
    )
    parts.proxy.child.end_leftover()
    disk = read_disk(state, sources, host, is_stored=stored is not None)
    parts.life = life.begin(disk, parts.configuration.read(disk.accepted))
    agent = loop.Agent(parts, notify.watchdog_interval_s(environment))
    server = control.ControlServer(inbox, events.Asked)
    garbage.keep_all()
    try:
        agent.run()
    finally:
        server.close()
        lock.close()


def _record(host: model.HostFacts) -> str:
    """Where the proxy that runs is written down: gone with the machine, as the proxy is."""
    return os.path.join(host.runtime_dir, f"{control.namespace_inode()}.running")


def read_disk(
    state: statedir.StateDirectory,
    sources: places.Sources,
    facts: model.HostFacts,
    *,
    is_stored: bool,
) -> life.Disk:
    """What earlier agents left in the state directory."""
    accepted = reload.judge_accepted(state.load(reload.ACCEPTED, sources), facts)
    return life.Disk(
        is_joined=state.has(places.MARKER),
        is_attempting=state.has(places.ATTEMPT),
        has_guard=state.has(places.GUARD),
        is_stored=is_stored,
        accepted=configuration.revision(accepted),
        refused=state.load(reload.REFUSED, sources) or None,
    )


def _changes(
    monitor: changes.ChangeMonitor, part: redirection.RedirectionPart
) -> events.Event | None:
    found = monitor.read()
    return events.KernelChanged(found) if part.notice(found) else None


def _network_changes(monitor: rtmonitor.Monitor) -> events.Event | None:
    change = monitor.read()
    return events.MachineChanged(change) if change else None
