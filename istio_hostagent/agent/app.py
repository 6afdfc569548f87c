"""The composition root: the only place that constructs real ports and joins them to the loop."""

import gc
import logging
import signal
from collections.abc import Mapping

from ..errors import AgentRunning
from ..host import clock, control, files, mailbox, nftables, notify, signals, watch
from . import (
    certificate,
    configuration,
    events,
    loop,
    marks,
    membership,
    places,
    proxy,
    redirection,
    state,
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
    host, sources = places.probe_host(environment)
    files.make_directory(str(host.state_dir))
    files.make_directory(str(host.runtime_dir))
    inbox: mailbox.Mailbox[events.Event] = mailbox.Mailbox()
    notifier = notify.Notifier(environment)
    stored = notify.take_stored(environment, membership.STORED_SOCKET)
    kernel = nftables.NftKernel(stored, is_owner=notify.has_store(environment))
    system_clock = clock.SystemClock()
    work = tasks.Tasks(inbox, system_clock)
    monitor = nftables.ChangeMonitor()
    inbox.watch(monitor.fileno(), lambda: _changes(monitor))
    signals.deliver((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), inbox, events.Signalled)
    kept = marks.Marks(host, system_clock)
    parts = state.Parts(
        facts=host,
        inbox=inbox,
        clock=system_clock,
        kernel=kernel,
        watcher=watch.FileWatcher(lambda: inbox.post(events.FilesChanged())),
        notifier=notifier,
        work=work,
        marks=kept,
        configuration=configuration.ConfigurationPart(
            sources, host, is_joined=kept.has(places.MARKER)
        ),
        certificate=certificate.CertificatePart(work, system_clock, host),
        redirection=redirection.RedirectionPart(kernel, work, system_clock),
        proxy=proxy.ProxyPart(inbox, work, system_clock),
        is_stored=stored is not None,
    )
    agent = loop.Agent(parts, notify.watchdog_interval_s(environment))
    server = control.ControlServer(inbox, events.Asked)
    gc.freeze()  # what has been made so far stays for ever
    try:
        agent.run()
    finally:
        server.close()
        lock.close()


def _changes(monitor: nftables.ChangeMonitor) -> events.Event | None:
    changes = monitor.read()
    return events.KernelChanged(changes) if changes else None
