"""`apply --confirm-within`: the rules go in, and out again by themselves unless somebody confirms.

First what is there is written down and a process waits that will go back to it (`host.detached`);
then the rules go in. So whoever is killed here, at any line, leaves nothing for ever that nobody
has confirmed. Nothing is written to the state directory.
"""

from collections.abc import Iterator, Mapping

from ...errors import ChildFailed, HostAgentError
from ...host import clock, detached, fallback, layers, unconfirmed
from ...redirect import plan
from .. import reconcile
from . import apply

# A process of ours is there after a tenth of a second; a busy machine takes longer.
_START_S = 10.0


def perform(
    environment: Mapping[str, str], reading: layers.Reading, *, within_s: float
) -> Iterator[str]:
    """Install the rules and read them back; returns the lines of the diff, and until when.

    They go out after `within_s` seconds, also if they are the same as before: whoever confirms
    finds something to confirm. Raises what `apply.ready` raises, and Unconfirmed if what is there
    now could not be put back; then, and after every other error, what was there is there again.
    """
    with apply.ready(environment, reading) as (rules, desired):
        kernel = rules.require_kernel()
        before = kernel.observe()
        fallback.keep(before)
        record = _start_watch(unconfirmed.identify(environment), within_s)
        try:
            made = reconcile.reconcile(desired, kernel)
        except (HostAgentError, OSError):
            fallback.go_back(before, kernel)
            unconfirmed.decide(record, unconfirmed.TAKEN_BACK)
            unconfirmed.forget()
            raise
        return _describe(plan.describe(made), record)


def _describe(lines: Iterator[str], record: unconfirmed.Record) -> Iterator[str]:
    yield from lines
    moment = clock.utc_text(record.until, "%Y-%m-%d %H:%M:%S UTC")
    yield f"until {moment} only, unless you confirm: {unconfirmed.CONFIRM}"


def _start_watch(who: str, within_s: float) -> unconfirmed.Record:
    """Have a process wait that goes back; raises ChildFailed.

    It ends by itself if nothing is written down by the time nobody holds the lock any more.
    """
    record_id = unconfirmed.make_id()
    detached.start_worker(
        "fallback",
        record_id,
        unit=f"istio-hostagent-fallback-{record_id}",
        description="Takes unconfirmed rules of istio-hostagent back",
    )
    if not unconfirmed.await_watcher(record_id, _START_S):
        raise ChildFailed("the process that goes back", "did not start in time")
    return unconfirmed.begin(record_id, who, within_s)
