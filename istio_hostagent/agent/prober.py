"""Sends the packets of proofs, one proof after another, without ever waiting.

The sockets come from a worker, once: they belong to other users. Most proofs then are over before
`prove` returns; packets that enter from outside may take a moment, and many packets several
rounds. Not here: what the outcomes mean (`proof`).
"""

import collections
from collections.abc import Callable

from ..config import model
from ..errors import ChildFailed, HostAgentError, KernelBusy, describe
from ..host import ports, probepool
from ..host.answers import probe_sockets
from ..redirect import expectations
from . import events, part, tasks

WORKER = "probe_sockets"
WORKER_TIMEOUT_S = 10.0
# Packets from outside that nobody has seen after so long were dropped before us.
ROUND_TIME_S = 0.3
LOOK_PAUSE_S = 0.002

Outcomes = tuple[expectations.Outcome, ...]
Done = Callable[[Outcomes | HostAgentError], None]


class _Proof:
    """Packets that belong together, and how far they have been sent."""

    def __init__(
        self, made: tuple[expectations.Expectation, ...], proxy: tuple[int, int], done: Done
    ) -> None:
        self.made = made
        self.proxy = proxy
        self.done = done
        self.outcomes: list[expectations.Outcome] = []

    @property
    def left(self) -> tuple[expectations.Expectation, ...]:
        """Those that have no outcome yet."""
        return self.made[len(self.outcomes) :]


class Prober(part.Part):
    """The one sender of probe packets in this process."""

    def __init__(self, work: tasks.Tasks, clock: ports.Clock, packets: ports.Packets) -> None:
        """Start without sockets."""
        self._work = work
        self._clock = clock
        self._packets = packets
        self._proxy = (-1, -1)  # whom its sockets were made for
        self._waiting: collections.deque[_Proof] = collections.deque()
        self._round: ports.Round | None = None
        self._has_tried = False  # to get sockets, for the proof that is next
        self._look_at = self._end_at = 0.0

    def prove(
        self, made: tuple[expectations.Expectation, ...], facts: model.HostFacts, done: Done
    ) -> None:
        """Send one packet for each; `done` gets the outcomes in order, or why there are none."""
        self._waiting.append(_Proof(made, (facts.proxy_uid, facts.proxy_gid), done))
        if len(self._waiting) == 1:
            self._begin()

    def handle(self, event: events.Event) -> None:
        """Go on with the proof that is under way."""
        if isinstance(event, events.TimePassed):
            self.tick()

    def deadline(self) -> float | None:
        """When `tick` has something to do (monotonic seconds)."""
        if not self._waiting or self._work.is_running(WORKER):
            return None
        return self._look_at if self._round is not None else self._clock.monotonic()

    def tick(self) -> None:
        """Look for what was not seen yet, or send the next packets."""
        deadline = self.deadline()
        if deadline is None or self._clock.monotonic() < deadline:
            return
        if self._round is not None:
            self._look(self._round)
        else:
            self._begin()

    def _begin(self) -> None:
        """Send as many packets of the next proof as can be sent at once."""
        proof = self._waiting[0]
        if not proof.left:
            self._finish(tuple(proof.outcomes))
            return
        counts = probepool.count(proof.made)
        if not self._has_tried and (proof.proxy != self._proxy or not self._packets.has(counts)):
            self._has_tried = True
            self._get_sockets(proof, counts)
            return
        sent = proof.left[: probepool.first_round(proof.left)]
        try:
            self._round = self._packets.send(sent)
        except (HostAgentError, OSError) as error:
            self._finish(_refusal(error))
            return
        self._end_at = self._clock.monotonic() + ROUND_TIME_S
        self._look(self._round)

    def _look(self, under_way: ports.Round) -> None:
        now = self._clock.monotonic()
        try:
            is_over = under_way.look() or now >= self._end_at
        except (HostAgentError, OSError) as error:
            self._end_round(under_way)
            self._finish(_refusal(error))
            return
        self._look_at = now + LOOK_PAUSE_S
        if not is_over:
            return
        self._end_round(under_way)
        proof = self._waiting[0]
        proof.outcomes += under_way.outcomes
        if not proof.left:
            self._finish(tuple(proof.outcomes))

    def _end_round(self, under_way: ports.Round) -> None:
        under_way.close()
        self._round = None

    def _finish(self, result: Outcomes | HostAgentError) -> None:
        self._has_tried = False
        self._waiting.popleft().done(result)

    # -- sockets --------------------------------------------------------------------------------

    def _get_sockets(self, proof: _Proof, counts: dict[probepool.Kind, int]) -> None:
        try:
            channel = self._packets.open_channel()
        except OSError as error:
            self._finish(_refusal(error))
            return
        uid, gid = proof.proxy
        groups = [
            {
                "sender": kind.sender.value,
                "is_v6": kind.is_v6,
                "is_raw": kind.is_raw,
                "is_datagram": kind.is_datagram,
                "uid": kind.uid,
                "gid": kind.gid,
                "count": number,
            }
            for kind, number in counts.items()
        ]
        self._work.start_worker(
            WORKER,
            {"proxy_uid": uid, "proxy_gid": gid, "groups": groups},
            user=None,
            timeout_s=WORKER_TIMEOUT_S,
            done=lambda answer: self._take_sockets(proof, counts, channel, answer),
            channel=channel.fileno(),
        )
        channel.started()

    def _take_sockets(
        self,
        proof: _Proof,
        counts: dict[probepool.Kind, int],
        channel: ports.Handover,
        answer: probe_sockets.ProbeSockets | HostAgentError,
    ) -> None:
        made = channel.take()
        if isinstance(answer, HostAgentError):
            self._finish(answer)
        elif not self._packets.fill(counts, answer.errnos, made):
            self._finish(ChildFailed(f"worker {WORKER}", "handed over other sockets than asked"))
        else:
            self._proxy = proof.proxy
            self._begin()

    def close(self) -> None:
        """Send no more; nothing is answered any more."""
        self._waiting.clear()
        if self._round is not None:
            self._end_round(self._round)
        self._packets.close()


def _refusal(error: HostAgentError | OSError) -> HostAgentError:
    if isinstance(error, HostAgentError):
        return error
    return KernelBusy(f"the probe packets could not be sent: {describe(error)}")
