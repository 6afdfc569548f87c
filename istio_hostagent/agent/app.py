"""The composition root: the only place that constructs real ports and joins them to the loop."""

import functools
import importlib
import logging
import os
import signal
from collections.abc import Mapping

from ..config import model
from ..errors import AgentRunning
from ..host import (
    capturecount,
    certificatefiles,
    changes,
    children,
    clock,
    control,
    deviceprobing,
    doors,
    facts,
    files,
    garbage,
    glance,
    groupwatch,
    heldports,
    instances,
    layers,
    legacyrules,
    legacytables,
    mailbox,
    mounts,
    nftables,
    nftpresence,
    norules,
    notify,
    openings,
    orphans,
    ports,
    predecessor,
    probing,
    processes,
    proxyfiles,
    proxyunit,
    published,
    rtmonitor,
    sights,
    signals,
    statefiles,
    watch,
)
from ..lifecycle import life
from . import (
    backends,
    components,
    configuration,
    events,
    fields,
    here,
    loop,
    performer,
    places,
    publishing,
    reconcile,
    reload,
    statedir,
)

logger = logging.getLogger(__name__)

# Also where somebody has installed it by pip, or a container runs it.
_BY_ITSELF = (
    "this is not istio-hostagent.service of the package: nobody starts the agent again, its proxy"
    " ends with it, and no guard is loaded at boot"
)
# A verb that changes rules ends sooner, and so does what a killed agent had just begun to start.
LOCK_TIME_S = 2.0
# What is beside the lock while rules wait for confirmation (`host.unconfirmed.RECORD`).
UNCONFIRMED = "unconfirmed"


def run(environment: Mapping[str, str]) -> None:
    """Be the agent of this network namespace until SIGTERM.

    Raises AgentRunning if another agent is, or while rules wait for confirmation;
    HostUnsupported, NotPermitted.
    """
    lock = control.Lock()
    if not lock.take(within_s=LOCK_TIME_S):
        raise AgentRunning("another agent or verb works in this network namespace")
    if control.has(UNCONFIRMED):
        raise AgentRunning("rules wait for confirmation (istio-hostagent status)")
    host, sources = here.probe_host(environment)
    if instances.find_earlier_state(environment):
        _settle(environment)
    files.make_directory(host.state_dir)
    files.make_directory(host.runtime_dir)
    inbox: mailbox.Mailbox[events.Event] = mailbox.Mailbox()

    seen = sights.Sights(mounts.Mounts())
    stored = notify.take_stored(environment)
    owning = stored.pop(performer.STORED_SOCKET, None)
    is_kept = notify.has_store(environment)
    # The rules that are here are another agent's, if anybody's.
    is_apart = bool(host.instance)
    can_change = not is_apart and norules.may_change()
    sock, refusal = (None, "") if is_apart else nftpresence.open_socket(owning)
    kernel = nftables.NftKernel(sock, is_owner=is_kept) if sock is not None else None
    has_units = not is_apart and proxyunit.is_available(environment)
    make_units = functools.partial(proxyunit.Units, inbox) if has_units else None
    if not is_kept:
        logger.info(_BY_ITSELF)
    servers = proxyunit.UNITS_OF_SERVERS
    started = children.Processes(inbox, _record(host), make_units, servers)
    user = processes.User(host.proxy_uid, host.proxy_gid)
    own_unit = "" if is_apart else predecessor.find_own_unit()
    given = ports.Ports(
        clock=clock.SystemClock(),
        inbox=inbox,
        rules=backends.BackEnds(
            reconcile.Reconciler(kernel) if kernel is not None else None,
            refusal,
            functools.partial(_make_legacy, started, inbox, is_kept=is_kept),
            legacytables.has_any,
            none=norules.NoRules(),
            can_change=can_change,
        ),
        changes=changes.ChangeMonitor(kernel.port) if kernel is not None else changes.Silence(),
        network=rtmonitor.Monitor(),
        watcher=watch.FileWatcher(inbox, events.FilesChanged, seen),
        sights=seen,
        notifier=notify.Notifier(environment),
        packets=probing.Packets() if kernel is not None else deviceprobing.Packets(),
        processes=started,
        doors=doors.Doors(inbox),
        held=heldports.HeldPorts(stored, user),
        state=statefiles.StateFiles(host.state_dir, reserved=(reload.ACCEPTED, places.GUARD)),
        environment=layers,
        certificates=certificatefiles.CertificateFiles(host.state_dir, seen),
        proxy=proxyfiles.ProxyFiles(host, seen),
        machine=facts,
        groups=groupwatch.GroupWatcher(inbox, events.UnitsChanged),
        jitter=clock.jitter,
        legacy_rules=(lambda: None) if is_apart else legacyrules.observe,
        istio_rules=glance.glance,
        openings=openings if can_change else norules.NoOpenings(),
        published=published.Published(published.find_path()),
        captured=capturecount.count if kernel is not None else lambda: None,
        predecessors=predecessor.Predecessors(own_unit),
        unit=own_unit,
    )
    signals.deliver(
        (signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
        inbox,
        events.Signalled,
        ended=orphans.bury if orphans.may_come() else None,
    )
    interval_s = notify.watchdog_interval_s(environment)
    agent = begin(given, sources, host, is_stored=owning is not None, watchdog_s=interval_s)
    logging.getLogger(__package__.rpartition(".")[0]).addHandler(agent.recent)
    server = control.ControlServer(inbox, events.Asked)
    garbage.keep_all()
    try:
        agent.run()
    finally:
        server.close()
        lock.close()


def _settle(environment: Mapping[str, str]) -> None:
    """Load what is of use once in the life of an agent with a name."""
    package = __package__.rpartition(".")[0]
    moved = importlib.import_module(f"{package}.host.instancestate").settle(environment)
    if moved:
        logger.info("the state of this agent has moved", extra=fields.of(DETAIL=f"from {moved}"))


def _make_legacy(
    started: ports.Processes, inbox: ports.Inbox[events.Event], *, is_kept: bool
) -> ports.PacketRules:
    """Load what only legacy tables need."""
    package = __package__.rpartition(".")[0]
    legacy = importlib.import_module(f"{package}.agent.legacy")
    workers = importlib.import_module(f"{package}.agent.legacyworkers")
    tables = importlib.import_module(f"{package}.host.xtkernel").LegacyTables()
    made: ports.PacketRules = legacy.LegacyRules(
        tables, workers.later(started, inbox), is_kept=is_kept
    )
    return made


def _record(host: model.HostFacts) -> str:
    """Where the proxy that runs is written down: gone with the machine, as the proxy is."""
    return os.path.join(host.runtime_dir, f"{control.namespace_inode()}.running")


def begin(
    given: ports.Ports,
    sources: places.Sources,
    host: model.HostFacts,
    *,
    is_stored: bool,
    watchdog_s: float | None,
) -> loop.Agent:
    """Make the agent on these ports; what an earlier one has left decides how it begins.

    `is_stored`: the service manager has kept the socket of the kernel port.
    """
    parts = components.Components(given, sources, host)
    parts.proxy.take_on()
    parts.names.take_on()
    kept = reload.load_accepted(parts.state.load(reload.ACCEPTED, sources), host)
    parts.configuration.begin(kept)
    parts.life = life.begin(_read_disk(parts.state, sources, kept, is_stored=is_stored))
    return loop.Agent(parts, watchdog_s, publishing.Publishing(parts, given.published))


def _read_disk(
    state: statedir.StateDirectory,
    sources: places.Sources,
    kept: reload.Loaded | None,
    *,
    is_stored: bool,
) -> life.Disk:
    """What earlier agents left in the state directory; `kept`: what the accepted texts mean."""
    return life.Disk(
        is_joined=state.has(places.MARKER),
        is_attempting=state.has(places.ATTEMPT),
        has_guard=state.has(places.GUARD),
        is_stored=is_stored,
        accepted=configuration.revision(kept),
        refused=state.load(reload.REFUSED, sources) or None,
    )
