"""Somebody who asks the agent for something."""

from typing import Any


class FakeCaller:
    def __init__(self, verb: str, **fields: object) -> None:
        self.request: dict[str, Any] = {"verb": verb, **fields}
        self.answers: list[dict[str, Any]] = []
        self.is_open = True
        self.is_gone = False  # nobody hears the answer

    def answer(self, value: dict[str, Any]) -> None:
        assert self.is_open, "one answer each"
        if not self.is_gone:
            self.answers.append(value)
        self.is_open = False

    def hang_up(self) -> None:
        self.is_open = False
