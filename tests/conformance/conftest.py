"""What the whole layer needs: namespaces."""

from pathlib import Path

import pytest

from tests.lab import layers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.netns)


@pytest.fixture(scope="session", autouse=True)
def _namespaces() -> None:
    layers.require_namespaces()
