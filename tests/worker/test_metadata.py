"""One question to a metadata server: bounded as a whole, whatever it is doing when the time ends."""

import signal
import time
import types
from collections.abc import Iterator

import pytest

from istio_hostagent.workers.credentials import metadata as asked
from tests.lab import metadata


@pytest.fixture
def alarm_ignored() -> Iterator[None]:
    """One that comes when nobody waits for it ends nothing."""
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGALRM, before)


# Debian's requests, and a newer urllib3 than its own.
@pytest.mark.filterwarnings("ignore:The 'strict' parameter:FutureWarning")
def test_time_that_ends_between_two_attempts_is_a_reason_like_any_other(
    alarm_ignored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour = metadata.Behaviour(statuses=[503] * 40)
    with metadata.MetadataServer(behaviour) as server:
        # It rings between two attempts, and at no other moment.
        ring = types.SimpleNamespace(
            monotonic=time.monotonic, sleep=lambda _s: signal.raise_signal(signal.SIGALRM)
        )
        monkeypatch.setattr(asked, "time", ring)
        url = f"http://{server.address}{metadata.GOOGLE_PATH}"
        with pytest.raises(ValueError, match="did not come within 3 s"):
            asked.fetch(url, {"Metadata-Flavor": "Google"}, timeout_s=3.0)
