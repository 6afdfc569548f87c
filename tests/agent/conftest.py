"""A host in memory that has a good configuration."""

import pytest

from tests.agent.host import MemoryHost
from tests.agent.texts import CLUSTER, TEXTS


@pytest.fixture
def host() -> MemoryHost:
    made = MemoryHost()
    made.write(CLUSTER, TEXTS["A"])
    return made
