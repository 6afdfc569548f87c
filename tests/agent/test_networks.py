"""Very many networks: a host in memory holds them once, however often its files were made sense of."""

import gc
from ipaddress import ip_network

import pytest

from istio_hostagent.config import packed
from istio_hostagent.config.model import CidrSet
from tests.agent import texts
from tests.agent.host import MemoryHost

NAME = "rules"  # of a configuration that differs in its networks from A, as this one does
NETWORKS = [f"11.{n // 128}.{n % 128 * 2}.0/24" for n in range(2000)]


def copies(networks: list[str]) -> int:
    """How many there are of these networks, as they were written."""
    gc.collect()
    wanted = CidrSet.of(map(ip_network, networks)).v4.data
    held = (each for each in gc.get_objects() if isinstance(each, packed.PackedRanges))
    return len({id(each.data) for each in held if each.data == wanted})


def test_networks_are_held_once(host: MemoryHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are made sense of before a host joins, and once more when it has."""
    text = texts.TEXTS["A"].replace(b"10.96.0.0/12", ",".join(NETWORKS).encode())
    monkeypatch.setitem(texts.TEXTS, NAME, text)
    monkeypatch.setitem(texts.CONFIGS, NAME, texts.config_of(text))
    texts.know(NAME, texts.CONFIGS[NAME].redirection)
    own = copies(NETWORKS)  # of this test
    host.write(texts.CLUSTER, text)
    host.join()
    host.run(5.0)
    assert host.is_in_mesh
    assert copies(NETWORKS) - own == 1
