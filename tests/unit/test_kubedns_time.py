"""How long it is waited for the answers of a host's resolver, however many names there are."""

import socket
import time
from pathlib import Path

import pytest

from istio_hostagent.host import kubedns

SLOW_S = 4.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A resolver that does not answer, and the time that passes with each question."""
    now = [100.0]

    def look_up(*_words: object) -> object:
        now[0] += SLOW_S
        raise OSError(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_many_names_take_no_longer_than_one(clock: list[float], tmp_path: Path) -> None:
    lines = "".join(f"address=/name{n}.default/10.0.0.1\n" for n in range(40))
    (tmp_path / "kubedns").write_text(lines)
    state = kubedns.look(str(tmp_path / "kubedns"))
    assert len(state.answers) == 40
    assert all(said for _, said in state.answers)
    assert clock[0] - 100.0 < 10.0 + SLOW_S
