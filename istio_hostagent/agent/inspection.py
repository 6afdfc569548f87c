"""`verify`: our own read back, an independent decoder, and packets for every expectation.

Whether a proxy is there for what is captured is looked at too, by whoever asks: the agent knows
more of it than a verb alone. The packets and the worker of the other decoder take their time
beside each other; the answer is complete when both are over. The agent and the one-shot verb use
the same code.
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

from ..config import model as config
from ..errors import ChildFailed, HostAgentError
from ..host import garbage, ports
from ..host.answers import second_reader
from ..redirect import drift, expectations, model, policy, probes
from ..redirect import takeover as remains
from ..supervise import nontransparent
from . import prober, proof, takeover, tasks

SECOND_READER = "second_reader"
TIMEOUT_S = 60.0  # of a hundred thousand networks the other decoder takes seconds
_PACKETS = "packets"
_RULES = "rules"
_OTHERS = "others"


class ProxyState(enum.Enum):
    """How far the proxy takes what is captured."""

    SERVING = "serving"
    LISTENING = "listening"  # and whether it answers is not known: no agent watches it
    CLOSED = "closed"  # on some capture port it does not listen, or somebody else does
    NOT_READY = "not ready"
    UNKNOWN = "unknown"  # the kernel does not tell


class Proxy(NamedTuple):
    """What was seen of the proxy.

    `is_required`: an agent runs here, or this host has joined. Rules of `apply` alone promise
    nothing of a proxy: which one runs behind them, and when, is the operator's.
    """

    state: ProxyState
    is_required: bool
    closed_ports: tuple[int, ...] = ()
    last_error: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether it is required and does not serve."""
        return self.is_required and self.state in (ProxyState.CLOSED, ProxyState.NOT_READY)

    def to_json(self) -> dict[str, Any]:
        """Its part of the machine-readable result."""
        return {
            "state": self.state.value,
            "required": self.is_required,
            "closed_ports": list(self.closed_ports),
            "last_error": self.last_error,
        }


class Verification(NamedTuple):
    """What was found. `drifts` and broken findings are differences; the rest is as expected."""

    drifts: tuple[str, ...]
    second_drifts: tuple[str, ...]
    findings: tuple[expectations.Finding, ...]
    proxy: Proxy = Proxy(ProxyState.UNKNOWN, is_required=False)
    is_none: bool = False  # nothing is to be redirected
    left_by_istio: str = ""  # what its scripts have left; what that does, only packets show

    @property
    def is_good(self) -> bool:
        """Whether nothing that was observed differs from what is expected."""
        is_unknown = self.is_in_doubt or self.is_untested
        return not (self.refutes_rules or self.proxy.is_missing or is_unknown)

    @property
    def refutes_rules(self) -> bool:
        """Whether the rules, or what packets show of them, are not as they should be."""
        broken = proof.having(self.findings, expectations.State.BROKEN)
        return bool(self.drifts or self.second_drifts or broken)

    @property
    def shows_rules(self) -> bool:
        """Whether packets have shown rules, and disproved none."""
        met = proof.having(self.findings, expectations.State.MET)
        is_broken = proof.having(self.findings, expectations.State.BROKEN)
        return bool(met) and not is_broken and not self.is_untested

    @property
    def is_untested(self) -> bool:
        """Whether something is captured, and no packet of ours could show that."""
        return proof.is_untested(self.findings)

    @property
    def is_in_doubt(self) -> bool:
        """Whether rules of Istio's scripts are there, and no packet has shown what they do."""
        untested = proof.having(self.findings, expectations.State.NOT_TESTABLE)
        return bool(self.left_by_istio) and len(untested) == len(self.findings)

    def to_json(self) -> dict[str, Any]:
        """Version 1 of the machine-readable result; fields are only added."""
        return {
            "version": 1,
            "in_place": self.is_good,
            "redirect": "none" if self.is_none else "rules",
            "differences": list(self.drifts),
            "second_reader": list(self.second_drifts),
            "kept": self._texts(expectations.State.MET),
            "broken": self._texts(expectations.State.BROKEN),
            "not_testable": self._texts(expectations.State.NOT_TESTABLE),
            "untested": self.is_untested,
            "proxy": self.proxy.to_json(),
            "left_by_istio": self._describe_left(),
        }

    def _describe_left(self) -> str:
        unknown = "; no packet has shown whether our rules decide beside them"
        return self.left_by_istio + (unknown if self.is_in_doubt else "")

    def _texts(self, state: expectations.State) -> list[str]:
        return [
            f"{finding.expectation.text}: {finding.detail}"
            if finding.detail
            else finding.expectation.text
            for finding in proof.having(self.findings, state)
        ]


def look_at_ports(
    settings: config.Config, find_listening: Callable[[int], bool | None]
) -> tuple[ProxyState, tuple[int, ...]]:
    """Whether the proxy's user, and nobody else, listens wherever connections are to arrive."""
    redirection = settings.redirection
    expected = redirection.answer_ports if redirection.captures else ()
    if redirection.is_none:
        expected = nontransparent.listening_ports(settings)
    found = {port: find_listening(port) for port in expected}
    closed = tuple(port for port, is_open in found.items() if is_open is False)
    if closed:
        return ProxyState.CLOSED, closed
    is_known = None not in found.values()
    return ProxyState.LISTENING if is_known else ProxyState.UNKNOWN, ()


def start(
    settings: config.Config,
    facts: config.HostFacts,
    rules: ports.PacketRules,
    machine: ports.Machine,
    work: tasks.Tasks,
    packets: prober.Prober,
    others: takeover.Takeover,
    *,
    done: Callable[[Verification], None],
    failed: Callable[[HostAgentError], None],
) -> None:
    """Read back and start the rest; exactly one of the two callbacks is called."""
    if work.is_running(SECOND_READER):
        failed(HostAgentError("another verification is under way"))
        return
    desired = policy.build_ruleset(settings.redirection, facts)
    made = probes.build_expectations(settings.redirection, machine.look_again(facts))
    # The other decoder reads nf_tables; legacy rules are read by another than who wrote them.
    native = rules.find_native(desired)
    ended: dict[str, Any] = {}

    def collect(name: str, answer: Any) -> None:
        ended[name] = answer
        if len(ended) < 4:
            return
        for value in ended.values():
            if isinstance(value, HostAgentError):
                failed(value)
                return
        try:
            second = _find_second_drift(native, ended[SECOND_READER])
        except HostAgentError as error:
            failed(error)
            return
        texts = tuple(str(difference) for difference in second)
        findings = proof.evaluate(made, ended[_PACKETS])
        drifts = tuple(str(difference) for difference in ended[_RULES])
        left = ended[_OTHERS].problem
        is_none = settings.redirection.is_none
        done(Verification(drifts, texts, findings, is_none=is_none, left_by_istio=left))
        ended.clear()
        garbage.give_back()

    rules.compare(desired, lambda answer: collect(_RULES, answer))
    if native is None:
        collect(SECOND_READER, second_reader.SecondReading())
    else:
        work.start_worker(
            SECOND_READER,
            {"addresses": list(desired.loopback_addresses)},
            user=None,
            timeout_s=TIMEOUT_S,
            done=lambda answer: collect(SECOND_READER, answer),
        )
    packets.prove(made, facts, lambda found: collect(_PACKETS, found))
    if settings.redirection.is_managed:
        others.look(lambda outcome: collect(_OTHERS, outcome))
    else:
        collect(_OTHERS, remains.Outcome())


def _find_second_drift(
    native: model.Ruleset | None, answer: second_reader.SecondReading
) -> tuple[model.Drift, ...]:
    """Where nf_tables differs by the other decoder; nowhere, where there is none."""
    return () if native is None else drift.find_drift(native, _second_reading(answer))


def _second_reading(answer: second_reader.SecondReading) -> model.Observed:
    """What the other decoder saw; raises ChildFailed if it could not look."""
    if answer.error is not None or answer.observed is None:
        reason = answer.error.message if answer.error is not None else "no reason given"
        raise ChildFailed(f"worker {SECOND_READER}", f"could not read: {reason}")
    return answer.observed
