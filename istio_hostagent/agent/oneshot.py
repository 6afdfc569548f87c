"""The verbs without a running agent: under the lock of this network namespace, once.

They need no CA, no proxy and no service. Files are read as the agent reads them; the accepted
texts are the agent's and are not used here.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..config import model
from ..errors import AgentRunning, ConfigInvalid, HostAgentError, NotPermitted, Problem
from ..host import clock, control, files, mailbox, nftables
from ..redirect import model as redirect
from ..redirect import plan as plans
from . import events, inspection, places, prober, reconcile, reload, tasks


@contextmanager
def locked() -> Iterator[nftables.NftKernel]:
    """Hold this namespace's lock and its packet filter; raises AgentRunning, NotPermitted."""
    if os.geteuid() != 0:
        raise NotPermitted("this verb needs root (CAP_NET_ADMIN)")
    lock = control.Lock()
    try:
        if not lock.take():
            raise AgentRunning("another agent or verb works in this network namespace")
        kernel = nftables.NftKernel(is_owner=False)
        try:
            yield kernel
        finally:
            kernel.close()
    finally:
        lock.close()


def load(environment: Mapping[str, str]) -> tuple[reload.Loaded, model.HostFacts, reload.Sources]:
    """Read and judge the files; nothing is raised for what is wrong with them.

    Raises NotPermitted if only root can read them as they have to be read.
    """
    facts, sources = places.probe_host(environment)
    return reload.load(sources, facts, ()), facts, sources


def require(environment: Mapping[str, str]) -> tuple[model.Config, model.HostFacts]:
    """The configuration, or ConfigInvalid with every problem."""
    loaded, facts, sources = load(environment)
    if loaded.config is None:
        missing = Problem(sources.cluster, 0, "no configuration yet: missing or empty")
        raise ConfigInvalid(loaded.problems or (missing,))
    return loaded.config, facts


def plan(environment: Mapping[str, str]) -> tuple[str, ...]:
    """What `apply` would change, as lines of a diff; changes nothing."""
    config, facts = require(environment)
    with locked() as kernel:
        return plans.describe(reconcile.make_plan(inspection.desired_rules(config, facts), kernel))


def apply(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Install the rules and read them back; returns the lines of the diff that was applied."""
    config, facts = require(environment)
    with locked() as kernel:
        return plans.describe(reconcile.reconcile(inspection.desired_rules(config, facts), kernel))


def clean(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Take out everything that is ours in the kernel, and the marks that it was there."""
    state_dir = places.find_places(environment).state_dir
    with locked() as kernel:
        lines = plans.describe(reconcile.reconcile(redirect.Ruleset(), kernel))
        for name in (places.MARKER, places.ATTEMPT, places.GUARD):
            files.remove(os.path.join(state_dir, name))
        return lines


def verify(environment: Mapping[str, str]) -> inspection.Verification:
    """Read back with two decoders and send packets for every promise."""
    config, facts = require(environment)
    inbox: mailbox.Mailbox[events.Event] = mailbox.Mailbox()
    time = clock.SystemClock()
    work = tasks.Tasks(inbox, time)
    packets = prober.Prober(work, time)
    found: list[inspection.Verification] = []
    failures: list[HostAgentError] = []
    with locked() as kernel:
        inspection.start(
            config, facts, kernel, work, packets, done=found.append, failed=failures.append
        )
        while not found and not failures:
            soon = time.monotonic() + 1.0
            due_at = min(at for at in (soon, packets.deadline()) if at is not None)
            for event in inbox.wait(max(due_at - time.monotonic(), 0.0)):
                if isinstance(event, events.TaskEnded):
                    work.ended(event.name)
            work.tick()
            packets.tick()
        work.cancel()
        packets.close()
    if failures:
        raise failures[0]
    return found[0]
