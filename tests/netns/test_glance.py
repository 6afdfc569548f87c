"""A first look for what Istio's scripts have left, where the packet filter is not as usual."""

import shutil
import threading

import pytest

from istio_hostagent.host import glance
from istio_hostagent.host.nfnetlink import connection
from istio_hostagent.redirect import takeover
from tests.netns.rig import Rig

needs_legacy = pytest.mark.skipif(
    shutil.which("iptables-legacy") is None, reason="needs iptables-legacy"
)
# Of a table so large a copy takes the kernel a while, in which others change it.
RULES = 4000
TIMES = 60


def test_a_kernel_with_netfilter_and_without_nf_tables_has_nothing_of_theirs_there(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What such a kernel answers to any question about nf_tables: no such part of netfilter.
    monkeypatch.setattr(connection, "_SUBSYSTEM", 99)
    assert rig.host.inside(glance.glance) == ()
    rig.host.ip("rule", "add", "fwmark", "1337", "lookup", "133")
    try:
        assert rig.host.inside(glance.glance) == (takeover.Part.NETLINK,)
    finally:
        rig.host.ip("rule", "del", "fwmark", "1337", "lookup", "133")


@needs_legacy
def test_a_legacy_table_that_others_change_is_read_all_the_same(rig: Rig) -> None:
    rules = "".join(f"-A OTHERS -d 10.{n >> 8}.{n & 255}.1/32 -j RETURN\n" for n in range(RULES))
    text = f"*nat\n:OTHERS - [0:0]\n{rules}COMMIT\n"
    rig.host.run(["iptables-legacy-restore"], stdin=text, check=True)
    is_over = threading.Event()

    def change() -> None:
        while not is_over.is_set():
            for how in ("-A", "-D"):
                words = ["iptables-legacy", "-t", "nat", how, "OUTPUT", "-j", "OTHERS"]
                rig.host.run(words, check=True)

    def look() -> list[bool]:
        return [glance.is_ours_in_legacy() for _ in range(TIMES)]

    changer = threading.Thread(target=change)
    changer.start()
    try:
        found = rig.host.inside(look)
    finally:
        is_over.set()
        changer.join()
        rig.host.run(["iptables-legacy-restore"], stdin="*nat\nCOMMIT\n", check=True)
    assert not any(found)
