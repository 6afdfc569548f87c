"""The verb `verify`, asked of the running agent: what is in force is looked at, once it is.

Rules follow the units of a host, which start and stop at any time: what is seen while they change
is of two sets of rules, and says nothing. Not here: the look itself (`inspection`).
"""

import functools
from collections.abc import Callable

from ..config import model
from ..errors import HostAgentError
from ..host import ports
from ..lifecycle.redirection import Rules
from . import components, configuration, fields, inspection

# A difference that is found while rules change counts if so many looks more find one.
MAX_LOOKS = 4


class Verifying:
    """Those who have asked, until the rules are settled and the look is over."""

    def __init__(
        self,
        parts: components.Components,
        refuse: Callable[[ports.Caller, HostAgentError], None],
    ) -> None:
        """Nobody has asked yet. `refuse` tells a caller of what went wrong."""
        self._parts = parts
        self._refuse = refuse
        self._waiting: list[tuple[ports.Caller, int]] = []

    def ask(self, caller: ports.Caller) -> None:
        """Begin to look, or do so once the rules are settled; a configuration is in force."""
        self._waiting.append((caller, MAX_LOOKS))
        self.tell()

    def tell(self) -> None:
        """After each turn: begin what may begin now."""
        if self._waiting and self._parts.redirection.settled is not None:
            waiting, self._waiting = self._waiting, []
            for caller, looks_left in waiting:
                try:
                    self._look(caller, looks_left)
                except HostAgentError as error:
                    self._refuse(caller, error)

    def close(self) -> None:
        """The agent ends."""
        for caller, _ in self._waiting:
            caller.hang_up()

    def _look(self, caller: ports.Caller, looks_left: int) -> None:
        parts = self._parts
        told = parts.life.told
        assert told is not None
        settings = configuration.config_of(told)
        known = parts.redirection.as_known(settings.redirection)
        settings = settings._replace(redirection=known)
        seen = functools.partial(
            self._seen, caller, settings, parts.redirection.settled, looks_left
        )
        inspection.start(
            settings,
            parts.machine.facts,
            parts.rules,
            parts.host,
            parts.work,
            parts.packets,
            parts.others,
            done=seen,
            failed=functools.partial(self._refuse, caller),
        )

    def _seen(
        self,
        caller: ports.Caller,
        settings: model.Config,
        before: int | None,
        looks_left: int,
        found: inspection.Verification,
    ) -> None:
        is_other = before != self._parts.redirection.settled
        if is_other and looks_left and not found.is_good:
            self._waiting.append((caller, looks_left - 1))
            return
        if not is_other and found.refutes_rules:
            self._parts.redirection.was_refuted()
        elif not is_other and found.shows_rules:
            self._parts.redirection.was_shown()
        found = found._replace(proxy=self._look_at_proxy(settings))
        caller.answer({"ok": True, "verification": found.to_json()})

    def _look_at_proxy(self, settings: model.Config) -> inspection.Proxy:
        """What `status` knows of the proxy, and its ports as they are now."""
        parts, life = self._parts, self._parts.life
        state, closed = inspection.look_at_ports(settings, parts.holding.find_listening)
        last_error, now_is = "", parts.situation()
        if not now_is.is_serving:
            state = inspection.ProxyState.NOT_READY
            name, is_at = parts.proxy.kind.value, parts.proxy.child.state.value
            last_error = parts.proxy.obstacle(life).removeprefix("proxy: ") or f"{name} is {is_at}"
        elif now_is.must_show and not now_is.serving.has_shown:
            state = inspection.ProxyState.NOT_READY
            last_error = now_is.show_error or "which certificate it shows is not known yet"
        elif state is inspection.ProxyState.LISTENING:
            state = inspection.ProxyState.SERVING
        elif closed:
            last_error = f"it does not listen on {fields.name_ports(closed)}"
        is_none = settings.redirection.is_none
        if last_error and parts.redirection.value.rules is not Rules.OUT and not is_none:
            last_error += "; captured connections fail until it serves"
        return inspection.Proxy(state, True, closed, last_error)
