"""Workers that are expected to answer get more time than an administrator would wait."""

import pytest

from istio_hostagent.host import certificatelook, layers


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificatelook, "TIMEOUT_S", 60.0)
    monkeypatch.setattr(layers, "READ_TIMEOUT_S", 60.0)
