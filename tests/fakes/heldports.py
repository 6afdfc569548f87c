"""TCP ports of a host in memory: who has them, and who cannot get them."""

from collections.abc import Callable

from istio_hostagent.errors import PortTaken
from tests.fakes.inbox import new_descriptor

PROXY_UID, STRANGER_UID = 998, 1000


class FakePorts:
    """The ports of one host, which outlive its agent: those that strangers have."""

    def __init__(self) -> None:
        self.taken: set[int] = set()
        self.in_use: set[int] = set()  # by connections
        self.held: set[int] = set()  # by an agent, or by sockets that its service manager keeps
        self.listening: Callable[[int], bool] = lambda port: False  # whether the proxy does

    def take(self, port: int) -> bool:
        """A stranger tries to bind a port; whether he has got it."""
        if port in self.held or self.listening(port):
            return False
        self.taken.add(port)
        return True


class FakeHeldPorts:
    """What one agent holds; `stored`: what the service manager has kept of an earlier one."""

    def __init__(
        self, space: FakePorts, stored: dict[str, int], step: Callable[[], None] = lambda: None
    ) -> None:
        self._space = space
        self._step = step
        self._held = {int(name[5:]) for name in stored if name.startswith("port-")}
        space.held = set(self._held)

    useless: tuple[str, ...] = ()

    @property
    def ports(self) -> frozenset[int]:
        return frozenset(self._held)

    def hold(self, port: int) -> dict[str, int]:
        self._step()
        if port in self._space.taken:
            error = f"port {port} is taken by a program of user {STRANGER_UID}"
            raise PortTaken(error, port=port, address="0.0.0.0", uid=STRANGER_UID, inode=port)
        self._held.add(port)
        self._space.held.add(port)
        return {f"port-{port}": new_descriptor()}

    def let_go(self, port: int) -> tuple[str, ...]:
        self._step()
        self._held.discard(port)
        self._space.held.discard(port)
        return (f"port-{port}",)

    def find_listening(self, port: int) -> bool | None:
        return self._space.listening(port) and port not in self._space.taken

    def is_in_use(self, port: int) -> bool:
        return port in self._space.in_use
