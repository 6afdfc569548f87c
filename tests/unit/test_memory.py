"""What thousands of networks take of the resident process: counted by the interpreter itself.

What the operating system makes of it is for the bench.
"""

import gc
import subprocess
import sys
import tracemalloc

import pytest

from istio_hostagent.config import build, model
from istio_hostagent.redirect import nft, policy, probes

from .samples import FACTS

# 7919 is prime to the number of them: all of them, in no order.
IPV4 = [f"10.{n // 128}.{n % 128 * 2}.0/24" for n in (i * 7919 % 10_000 for i in range(10_000))]
IPV6 = [f"fd00:{n:x}::/64" for n in range(3000)]


def layers_of(networks: list[str]) -> list[model.Layer]:
    nobody = model.Trust(is_root_only=True)
    text = f"ISTIO_SERVICE_CIDR={','.join(networks)}\n".encode()
    files = (("hostagent.env", None), ("cluster.env", text), ("sidecar.env", None))
    return [model.Layer(file, data, nobody) for file, data in files]


@pytest.mark.parametrize(("networks", "bytes_each"), [(IPV4, 8), (IPV6, 32)], ids=["IPv4", "IPv6"])
def test_networks_are_held_in_their_bytes_and_made_without_lists_of_objects(
    networks: list[str], bytes_each: int
) -> None:
    layers = layers_of(networks)
    build.build_config(layers_of(networks[:2]), FACTS)  # what is made once for all
    gc.collect()
    tracemalloc.start()
    try:
        config = build.build_config(layers, FACTS).config
        assert config is not None
        ruleset = policy.build_ruleset(config.redirection, FACTS)
        probes.build_expectations(config.redirection, FACTS)
        nft.render_nft(ruleset.tables[-1])
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    content = len(networks) * bytes_each
    # Once in the configuration; once more where networks had to be joined. The interpreter keeps
    # up to 2 000 freed tuples of each length for the next ones.
    assert held < 2 * content + 130_000
    # The value as one text and the guard's twice; ten thousand objects of 50 bytes are too many.
    texts = 2 * len(layers[1].data or b"")
    assert peak < 4 * content + texts + 400_000


# One block of each hundred stays, as what is kept of a large answer does.
FRAGMENTED = """
import ctypes
from istio_hostagent.host import garbage

def resident_kb():
    with open("/proc/self/status") as status:
        return int(status.read().partition("RssAnon:")[2].split()[0])

blocks = [bytes(1000) for _ in range(30_000)]
kept = blocks[::100]
del blocks
before = resident_kb()
garbage.give_back()
print(before - resident_kb())
"""


def test_memory_between_what_stays_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) > 20_000
