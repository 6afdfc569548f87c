"""Whole answers of the kernel, or errors: a kernel that is scripted, since the real one is nice."""

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from istio_hostagent.errors import HostUnsupported, KernelBusy, NotPermitted
from istio_hostagent.host import netlink
from istio_hostagent.host.nfnetlink import framing

OBJECT = 16
GONE = b"nobody answers any more"


class Kernel:
    """Answers each question with the datagrams of one script; the last one is kept up for ever."""

    def __init__(self, *scripts: list[bytes]) -> None:
        self._scripts = scripts
        self._ends: list[socket.socket] = []
        self.asked = 0

    def connect(self, _protocol: int) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.settimeout(0.05)
        for datagram in self._scripts[min(self.asked, len(self._scripts) - 1)]:
            if datagram == GONE:
                ours.shutdown(socket.SHUT_WR)
            else:
                ours.send(datagram)
        self.asked += 1
        self._ends.append(ours)
        return theirs

    def close(self) -> None:
        for each in self._ends:
            each.close()

    def dump(self) -> list[bytes]:
        return netlink.dump(0, 18, b"", connect=self.connect)


@contextlib.contextmanager
def kernel(*scripts: list[bytes]) -> Iterator[Kernel]:
    with contextlib.closing(Kernel(*scripts)) as made:
        yield made


def objects(*bodies: bytes, flags: int = 0) -> bytes:
    return b"".join(framing.pack_message(OBJECT, 2 | flags, 1, body) for body in bodies)


def done(status: int = 0, flags: int = 0) -> bytes:
    return framing.pack_message(framing.NLMSG_DONE, 2 | flags, 1, struct.pack("=i", status))


def refusal(code: int) -> bytes:
    body = struct.pack("=i", -code) + bytes(16)
    return framing.pack_message(framing.NLMSG_ERROR, 0, 1, body)


INTERRUPTED = framing.NLM_F_DUMP_INTR
GOOD = [objects(b"aaaa", b"bbbb"), objects(b"cccc"), done()]


def test_a_dump_is_everything_up_to_its_end() -> None:
    with kernel(GOOD) as fake:
        assert fake.dump() == [b"aaaa", b"bbbb", b"cccc"]


@pytest.mark.parametrize(
    "interrupted",
    [
        pytest.param([objects(b"old!", flags=INTERRUPTED), done()], id="at-first"),
        pytest.param([objects(b"old!"), done(flags=INTERRUPTED)], id="at-the-end"),
    ],
)
def test_an_interrupted_dump_is_made_again(interrupted: list[bytes]) -> None:
    with kernel(interrupted, interrupted, GOOD) as fake:
        assert fake.dump() == [b"aaaa", b"bbbb", b"cccc"]
        assert fake.asked == 3


def test_a_dump_that_is_always_interrupted_is_an_error() -> None:
    with kernel([objects(b"old!", flags=INTERRUPTED), done()]) as fake:
        with pytest.raises(KernelBusy):
            fake.dump()
        assert fake.asked == 20


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([refusal(errno.ENOBUFS)], id="at-once"),
        pytest.param([objects(b"aaaa"), refusal(errno.ENOBUFS)], id="on-the-way"),
        pytest.param([objects(b"aaaa"), done(-errno.ENOBUFS)], id="in-the-end-mark"),
    ],
)
def test_a_refusal_is_no_answer(script: list[bytes]) -> None:
    with kernel(script) as fake, pytest.raises(OSError) as caught:
        fake.dump()
    assert caught.value.errno == errno.ENOBUFS


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    with kernel([objects(b"aaaa"), GONE]) as fake, pytest.raises(KernelBusy, match="broke off"):
        fake.dump()


def test_silence_is_no_answer() -> None:
    with kernel([objects(b"aaaa")]) as fake, pytest.raises(KernelBusy, match="not answer"):
        fake.dump()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EPERM, NotPermitted),
        (errno.EAFNOSUPPORT, HostUnsupported),
        (errno.EOPNOTSUPP, HostUnsupported),
        (errno.ENOBUFS, KernelBusy),
    ],
)
def test_a_refusal_is_explained_to_who_must_act(code: int, kind: type[Exception]) -> None:
    found = netlink.explain(OSError(code, "no"), "reading addresses")
    assert type(found) is kind
    assert str(found).startswith("reading addresses")
