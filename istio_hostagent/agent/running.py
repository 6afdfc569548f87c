"""One process of the proxy as it is looked after: what it was started with, and its end."""

from ..host import ports
from ..supervise import specs
from . import events


class Running:
    """A process that runs, or has ended and was not seen to. `number`: of its start, from 1."""

    def __init__(
        self,
        inbox: ports.Inbox[events.Event],
        spec: specs.ProcessSpec,
        program: ports.Program,
        number: int,
    ) -> None:
        """Hear of its end by ProxyEnded. `spec` is what it was launched with."""
        self.spec = spec
        self.process = program.child
        self.number = number
        self._program = program
        self._inbox = inbox
        ended = events.ProxyEnded()
        descriptor = self.process.descriptor

        def read() -> events.Event:
            inbox.forget(descriptor)
            return ended

        inbox.watch(descriptor, read)

    @property
    def pid(self) -> int | None:
        """The process id, once it is known."""
        return self.process.pid or None

    @property
    def unit(self) -> str:
        """The unit in which it runs; empty: it is a child of this process."""
        return self._program.unit

    def tail(self) -> tuple[str, ...]:
        """Return the last lines that it wrote."""
        return self._program.tail()

    def marked(self) -> tuple[str, ...]:
        """Return the first of those lines that have what its specification remembers."""
        return self._program.marked()

    def ignore(self) -> None:
        """Hear of its end no more."""
        self._inbox.forget(self.process.descriptor)

    def let_go(self) -> None:
        """Look after it no more, and leave it as it is: it has a unit."""
        self.ignore()
        self._program.let_go()
