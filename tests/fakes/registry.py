"""Agents of Consul in memory, as the worker that speaks to them leaves them."""

import enum
import json
from typing import Any

from istio_hostagent.config import services
from tests.fakes.processes import Plan


class Mood(enum.Enum):
    """How a registry behaves."""

    GOOD = "good"
    AWAY = "away"  # nobody answers
    HANGING = "hanging"  # nothing comes of what is asked
    FORGETFUL = "forgetful"  # it does what it is told, and the answer is lost


class FakeRegistries:
    """By address what each has: of every instance why it is not well, or nothing."""

    def __init__(self) -> None:
        self.mood = Mood.GOOD
        self.instances: dict[str, dict[str, str]] = {}
        self.asked = self.withdrawn = 0
        self.token_file = ""  # that of the last question
        self.services: tuple[str, ...] = ()  # addresses in the catalogue
        self.version = 1

    def perform(self, request: Any) -> dict[str, Any]:
        """As `workers.registration` answers."""
        self.asked += 1
        self.withdrawn += request["action"] == "withdraw"
        self.token_file = request["access"]["token_file"]
        if self.mood is Mood.AWAY:
            return _failed("it is away")
        there = self.instances.setdefault(request["access"]["address"], {})
        done = []
        for each in request.get("services", ()):
            service = services.Registration(**each)
            for port in service.ports:
                number = service.find_id(services.Port(*port))
                done.append({"id": number, "outcome": "registered"})
                there[number] = request["trouble"]
        for number in request["gone"]:
            there.pop(number, None)
        if self.mood is Mood.FORGETFUL:
            return _failed("it said nothing")
        return {"instances": done}

    def move(self, *addresses: str) -> None:
        """Services are at these addresses now."""
        self.services = addresses
        self.version += 1

    def read(self, request: Any) -> Plan:
        """As `workers.catalogue` does, which waits for a change."""
        self.asked += 1
        if self.mood is Mood.HANGING:
            return Plan(None)
        if self.mood is not Mood.GOOD:
            return Plan(0.1, lambda: (0, json.dumps(_failed("it is away")).encode()))
        # Nobody moves while it waits, but what moves is seen at the end of its time.
        is_news = request["version"] != self.version

        def answer() -> tuple[int, bytes]:
            found = {"version": self.version, "addresses": list(self.services)}
            return 0, json.dumps(found).encode()

        return Plan(0.1 if is_news else request["wait_s"], answer)


def _failed(message: str) -> dict[str, Any]:
    return {"error": {"code": "registry-unavailable", "message": message, "hint": "look there"}}
