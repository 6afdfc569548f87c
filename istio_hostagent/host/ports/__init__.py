"""What the agent may ask of the machine, as narrow promises that a fake can keep too.

Not here: any implementation. A port is described by what it promises, not by its library. Every
promise here has one contract suite that the real thing and its fake both pass (`tests/contract`).
A descriptor is a number that an `Inbox` can watch, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .events import Caller, Groups, Inbox, Source, Watcher
from .files import (
    CertificateFiles,
    EnvironmentFiles,
    ProxyFiles,
    Published,
    Sights,
    StateFiles,
)
from .machine import Clock, Machine, Notifier, Predecessors
from .processes import Child, Processes, Program, Run, Worker
from .rules import Kernel, LegacyTables, Openings, PacketRules
from .sockets import Doors, Handover, HeldPorts, Packets, Round

if TYPE_CHECKING:
    # Promises are made of types alone: who is promised little does not load what keeps the rest.
    from collections.abc import Callable

    from ...redirect import takeover
    from .. import capturecount, changes, rtmonitor

__all__ = (
    "Caller",
    "CertificateFiles",
    "Child",
    "Clock",
    "Doors",
    "EnvironmentFiles",
    "Groups",
    "Handover",
    "HeldPorts",
    "Inbox",
    "Kernel",
    "LegacyTables",
    "Machine",
    "Notifier",
    "Openings",
    "PacketRules",
    "Packets",
    "Ports",
    "Predecessors",
    "Processes",
    "Program",
    "ProxyFiles",
    "Published",
    "Round",
    "Run",
    "Sights",
    "Source",
    "StateFiles",
    "Watcher",
    "Worker",
)


class Ports(NamedTuple):
    """Everything that the parts of one agent need of the machine."""

    clock: Clock
    inbox: Inbox[Any]
    rules: PacketRules
    changes: Source[tuple[changes.Change, ...]]
    network: Source[rtmonitor.Change]
    watcher: Watcher
    notifier: Notifier
    packets: Packets
    processes: Processes
    doors: Doors
    held: HeldPorts
    state: StateFiles
    environment: EnvironmentFiles
    sights: Sights
    certificates: CertificateFiles
    proxy: ProxyFiles
    machine: Machine
    groups: Groups
    jitter: Callable[[], float]
    # A value that differs when rules of legacy tables come or go; takes no time, raises nothing.
    legacy_rules: Callable[[], object]
    # Where Istio's scripts may have left rules; takes no time, raises KernelBusy, NotPermitted.
    istio_rules: Callable[[], tuple[takeover.Part, ...]]
    openings: Openings
    published: Published
    # How many connections were captured, as the kernel counts; takes no time, raises nothing.
    captured: Callable[[], capturecount.Captured | None]
    predecessors: Predecessors
    # As which unit of systemd this process runs, if it is the packaged one; or nothing.
    unit: str
