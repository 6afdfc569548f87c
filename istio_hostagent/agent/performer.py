"""Performs the steps that `lifecycle` names: those of one part are its own, the others are here.

Not here: when and why.
"""

import functools

from ..lifecycle import decide
from ..lifecycle.life import Revision
from ..lifecycle.steps import Step
from ..supervise.validation import Validation
from . import components, configuration, part, places, reload

STORED_SOCKET = "nft"


class Performer:
    """One method for each step that needs more than one part, or the life itself."""

    def __init__(self, parts: components.Components) -> None:
        """Work on these parts."""
        self._parts = parts
        self._steps: dict[Step, part.Perform] = {
            Step.CONFIGURE_IDENTITY: self._configure_identity,
            Step.CONFIGURE: self._configure,
            Step.CHECK_CANDIDATE: self._check_candidate,
            Step.WRITE_GUARD: self._write_guard,
            Step.STORE_SOCKET: self._store_socket,
            Step.SAVE_ACCEPTED: self._save_accepted,
            Step.SAVE_REFUSED: self._save_refused,
            Step.LET_GO: self._let_go,
            Step.RELEASE: self._release,
            Step.GIVE_BACK: self._give_back,
        }
        for each in parts.all:
            self._steps |= each.steps

    def perform(self, step: Step) -> str:
        """Do it; why it did not succeed, or nothing."""
        return self._steps[step]()

    def _in_force(self) -> Revision:
        in_force = self._parts.life.in_force
        assert in_force is not None
        return in_force

    def _configure_identity(self) -> str:
        parts = self._parts
        return self._configure_each(parts.certificate, parts.outputs, parts.hook)

    def _configure(self) -> str:
        parts = self._parts
        # What the others need to know of the machine depends on where the control plane is.
        return self._configure_each(
            parts.machine,
            parts.proxy,
            parts.leaving,
            parts.holding,
            parts.predecessor,
            parts.catalogue,
            parts.redirection,
            parts.registration,
        )

    def _configure_each(self, *parts: part.Part) -> str:
        config = configuration.config_of(self._in_force())
        for each in parts:
            each.configure(config, self._parts.machine.facts)
        return ""

    def _let_go(self) -> str:
        self._parts.holding.let_go(all_of_them=not self._parts.life.is_joined)
        return ""

    def _release(self) -> str:
        self._parts.certificate.release_others()
        self._parts.outputs.release_others()
        return ""

    def _give_back(self) -> str:
        # Its proxy may share its ports with nobody.
        self._parts.holding.let_go(all_of_them=True)
        self._parts.predecessor.give_back()
        return ""

    def _check_candidate(self) -> str:
        parts = self._parts
        rollout = parts.life.rollout
        assert rollout.candidate is not None
        ended = functools.partial(self._candidate_checked, rollout.candidate)
        parts.life = decide.checking(parts.life)
        config = configuration.config_of(rollout.candidate)
        parts.proxy.validate_candidate(config, rollout.validation, ended)
        return ""

    def _candidate_checked(self, candidate: Revision, found: Validation) -> None:
        parts = self._parts
        if candidate.says_same(parts.life.rollout.candidate):
            parts.life = decide.checked(parts.life, found)

    def _write_guard(self) -> str:
        text = self._parts.rules.render_guard(self._parts.redirection.desired)
        return self._parts.state.write(places.GUARD, text)

    def _store_socket(self) -> str:
        if not self._parts.rules.has_socket:
            return ""
        try:
            self._parts.notifier.store(STORED_SOCKET, self._parts.rules.fileno())
        except OSError as error:
            return f"the service manager did not take the socket of the rules: {error.strerror}"
        return ""

    def _save_accepted(self) -> str:
        layers = configuration.layers_of(self._in_force())
        error = self._parts.state.save(reload.ACCEPTED, layers)
        if not error:
            self._parts.proxy.remember()
        return error

    def _save_refused(self) -> str:
        refusal = self._parts.life.refusal
        assert refusal is not None
        layers = configuration.layers_of(Revision(refusal.texts, self._in_force().config))
        return self._parts.state.save(reload.REFUSED, layers)
