"""The parts of the agent and the little that they share: what the loop brings forward."""

from dataclasses import dataclass

from ..config import model
from ..host import mailbox, nftables, notify, ports, watch
from . import certificate, configuration, events, marks, proxy, redirection, tasks


@dataclass
class Parts:
    """Everything the composition root made, and whether this host has joined."""

    facts: model.HostFacts
    inbox: mailbox.Mailbox[events.Event]
    clock: ports.Clock
    kernel: nftables.NftKernel
    watcher: watch.FileWatcher
    notifier: notify.Notifier
    work: tasks.Tasks
    marks: marks.Marks
    configuration: configuration.ConfigurationPart
    certificate: certificate.CertificatePart
    redirection: redirection.RedirectionPart
    proxy: proxy.ProxyPart
    is_stored: bool  # systemd already keeps the socket that owns the main table
    is_joined: bool = False
    is_attempting: bool = False  # rules may be in although this host has not joined
    attempt_trouble: str = ""  # why the last attempt to join failed, until one succeeds
    trial_at: float | None = None  # when a changed configuration has had its time; None: endless
    retry_at: float | None = None  # when one that a passing cause kept out is tried again
    attempt_at: float = 0.0  # monotonic seconds: not before then is joining tried again
