"""What is told about transactions of others: who, and whether it is our business."""

import contextlib
import select
from collections.abc import Iterator

import pytest

from istio_hostagent.host import changes, nftables, probetable
from istio_hostagent.host.nfnetlink import connection, elements, framing, messages
from istio_hostagent.redirect import model, policy
from tests.netns.rig import FACTS, Rig
from tests.unit.samples import STANDARD

DESIRED = policy.build_ruleset(STANDARD, FACTS)
PORTS = model.make_set("foreign_ports", model.SetKind.PORT, ((1, 2),))
FOREIGN = """
table ip foreign {
  set addresses { type ipv4_addr; flags interval; }
  chain early { type nat hook output priority -150; }
}
"""


@pytest.fixture
def foreign(rig: Rig) -> Iterator[None]:
    rig.nft(text=FOREIGN)
    yield
    rig.nft("delete", "table", "ip", "foreign")


@pytest.fixture
def ours(rig: Rig) -> Iterator[None]:
    rig.install(STANDARD)
    yield
    rig.clean()


@contextlib.contextmanager
def watching(
    rig: Rig, own_port: int | None = None, **options: int
) -> Iterator[changes.ChangeMonitor]:
    monitor = rig.host.inside(lambda: changes.ChangeMonitor(own_port, **options))
    with contextlib.closing(monitor):
        yield monitor


def kinds(found: tuple[changes.Change, ...]) -> list[tuple[bool, bool]]:
    return [(change.is_ours, change.is_structure) for change in found]


def everything(monitor: changes.ChangeMonitor) -> tuple[changes.Change, ...]:
    """All that has come: one call reads only so much."""
    found: list[changes.Change] = []
    while not is_idle(monitor):
        found += monitor.read()
    return tuple(found)


def first_set(rig: Rig) -> str:
    listing = rig.nft("list", "table", "inet", "istio_hostagent").splitlines()
    return next(line.split()[1] for line in listing if line.strip().startswith("set "))


def is_idle(monitor: changes.ChangeMonitor) -> bool:
    return not select.select([monitor], [], [], 0)[0]


def test_who_changed_something_is_told(rig: Rig) -> None:
    with watching(rig) as monitor:
        assert monitor.read() == ()
        process = rig.host.popen(["nft", "add", "table", "inet", "foreign"])
        process.wait(10)
        (change,) = monitor.read()
        assert (change.pid, change.process_name) == (process.pid, "nft")
        assert change.culprit == f"nft[{process.pid}]"
        rig.nft("delete", "table", "inet", "foreign")
        assert [change.process_name for change in monitor.read()] == ["nft"]


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("add table ip other ; delete table ip other", (False, True)),
        ("add chain ip foreign more ; delete chain ip foreign more", (False, True)),
        ("add rule ip foreign early counter ; flush chain ip foreign early", (False, True)),
        ("add element ip foreign addresses { 192.0.2.1 }", (False, False)),
        ("add set ip foreign more { type ipv4_addr; }", (False, False)),
        ("add counter ip foreign seen", (False, False)),
        ("add table ip istio_hostagent ; delete table ip istio_hostagent", (False, True)),
        ("add table inet istio_hostagentx ; delete table inet istio_hostagentx", (False, True)),
        ("insert rule inet istio_hostagent ISTIO_OUTPUT return", (True, False)),
        ("flush set inet istio_hostagent FIRST_SET", (True, False)),
        ("flush chain inet istio_guard output", (True, False)),
        ("flush ruleset", (True, True)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("foreign", "ours")
def test_what_was_touched_is_told(rig: Rig, command: str, kind: tuple[bool, bool]) -> None:
    with watching(rig) as monitor:
        for each in command.replace("FIRST_SET", first_set(rig)).split(" ; "):
            rig.nft(each)
        found = monitor.read()
        assert set(kinds(found)) == {kind}
    rig.nft(text=FOREIGN)


@pytest.mark.usefixtures("foreign")
def test_one_transaction_of_many_kinds_is_of_each(rig: Rig) -> None:
    rig.install(STANDARD)
    with watching(rig) as monitor:
        rig.nft(
            text="add element ip foreign addresses { 192.0.2.1 }\n"
            "add chain ip foreign more\n"
            "insert rule inet istio_hostagent ISTIO_OUTPUT return\n"
        )
        assert kinds(monitor.read()) == [(True, True)]
    rig.clean()


@pytest.mark.usefixtures("foreign")
def test_ours_is_found_among_ten_thousand_elements_of_others(rig: Rig) -> None:
    rig.install(STANDARD)
    networks = ", ".join(f"10.{i // 256}.{i % 256}.0/25" for i in range(10_000))
    with watching(rig) as monitor:
        rig.nft(
            text="insert rule inet istio_hostagent ISTIO_OUTPUT return\n"
            f"add element ip foreign addresses {{ {networks} }}\n"
        )
        assert monitor.read() == ()  # not yet: one call reads only so much
        assert kinds(everything(monitor)) == [(True, False)]
        rig.nft("flush set ip foreign addresses")
        assert kinds(everything(monitor)) == [(False, False)]
    rig.clean()


def test_what_we_do_ourselves_is_not_told(rig: Rig) -> None:
    """Known by the socket: in a container the kernel's process numbers are not ours."""
    with rig.kernel() as kernel, watching(rig, kernel.port) as monitor:
        rig.apply(kernel, DESIRED)
        rig.apply(kernel, model.Ruleset())
        assert everything(monitor) == ()
        rig.nft("add table inet istio_guard")
        rig.nft("delete table inet istio_guard")
        assert kinds(everything(monitor)) == [(True, False), (True, False)]


def test_probes_are_nobodys_business(rig: Rig) -> None:
    source = (probetable.Source(is_v6=False, port=4000),)
    link = rig.host.inside(connection.Connection)
    with watching(rig) as monitor, contextlib.closing(link.socket):
        table = probetable.ProbeTable(link, source, source)
        assert not is_idle(monitor)
        assert everything(monitor) == ()
        table.close()
        assert everything(monitor) == ()
        rig.nft("add table inet istio_hostagent_probe_1")
        rig.nft("add table ip istio_hostagent_probe_1")
        assert kinds(everything(monitor)) == [(False, True)]
        rig.nft("delete table inet istio_hostagent_probe_1")
        rig.nft("delete table ip istio_hostagent_probe_1")


def test_lost_changes_are_told_as_such_and_nothing_is_left_unread(rig: Rig) -> None:
    """After a loss the kernel delivers nothing until all was read: then is the time to look."""
    link = rig.host.inside(connection.Connection)
    with watching(rig, buffer_size=1) as monitor, contextlib.closing(link.socket):
        for _ in range(50):
            nftables.commit_soon(link, lambda: [messages.new_table("foreign", is_owned=False)])
            nftables.commit_soon(link, lambda: [messages.delete_table("foreign")])
        assert changes.LOST in monitor.read()
        assert is_idle(monitor)
        for command in ("add", "delete"):
            rig.nft(f"{command} table inet istio_guard")
            assert kinds(everything(monitor)) == [(True, False)]


def test_our_own_ten_thousand_networks_fit_into_the_buffer(rig: Rig) -> None:
    networks = ((i << 8, (i << 8) + 127) for i in range(10_000))
    many = model.make_set("many", model.SetKind.IPV4, networks)
    parts = [
        messages.new_table("foreign", is_owned=False),
        messages.new_set("foreign", many, 1),
        *elements.new_elements("foreign", many, 1),
    ]
    link = rig.host.inside(connection.Connection)
    with watching(rig) as monitor, contextlib.closing(link.socket):
        nftables.commit_soon(link, lambda: parts)
        nftables.commit_soon(link, lambda: [messages.delete_table("foreign")])
        assert changes.LOST not in everything(monitor)


def test_the_port_of_a_transaction_is_that_of_its_socket(rig: Rig) -> None:
    """What knowing our own transactions rests on."""
    listener = rig.host.inside(lambda: connection.open_socket((7,)))
    link = rig.host.inside(connection.Connection)
    with contextlib.closing(listener), contextlib.closing(link.socket):
        nftables.commit_soon(link, lambda: [messages.new_table("foreign", is_owned=False)])
        nftables.commit_soon(link, lambda: [messages.delete_table("foreign")])
        ports = {framing.HEADER.unpack_from(listener.recv(1 << 16))[4] for _ in range(4)}
        assert ports == {link.port}


def test_nobody_takes_us_for_who_changed_our_rules(rig: Rig, ours: None) -> None:
    """Another socket of ours touches our tables: what is told of it blames nobody."""
    own = rig.host.inside(connection.Connection)
    other = rig.host.inside(connection.Connection)
    with (
        contextlib.closing(own.socket),
        contextlib.closing(other.socket),
        watching(rig, own.port) as monitor,
    ):
        own.commit([messages.new_table("ours_too", is_owned=True)])
        assert monitor.read() == ()
        other.commit([messages.new_set("istio_hostagent", PORTS, 900)])
        (change,) = monitor.read()
        assert change.is_ours
        assert (change.culprit, change.process_name) == ("unknown", "")
