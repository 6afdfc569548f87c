"""Rules of ours in firewalls, as a flag."""


class FakeOpenings:
    """The promises of `host.ports.Openings`."""

    def __init__(self) -> None:
        self.is_there = False

    def is_any(self) -> bool:
        return self.is_there

    def take_out(self) -> bool:
        was_there, self.is_there = self.is_there, False
        return was_there
