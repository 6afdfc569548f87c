"""An interface of our own by which frames come in at another one, as if from its cable.

What is written to the tun device (tun.txt of the kernel) is taken by a filter on its way in and
continues as received on the interface it is aimed at (tc-mirred(8)): with that one's name, zone
and reverse path, through whatever filters it has. The device has neither address nor route: with
so small an MTU IPv6 leaves it alone. It goes with its last descriptor, however that is closed.
Not here: which frames, and who drops them again. Source: include/uapi/linux/{if_tun,pkt_cls}.h.
"""

import fcntl
import io
import os
import socket
import struct
from collections.abc import Iterator

from . import netlink, rtnetlink
from .nfnetlink import framing

# Followed by a number; whoever watches the network need not look at such an interface.
NAME_PREFIX = "istio-probe"
_PATH = "/dev/net/tun"
_TUNSETIFF, _TUNGETIFF = 0x400454CA, 0x800454D2
_IFREQ = struct.Struct("=16sH22x")
_TUN_WITHOUT_HEADER = 0x1001  # IFF_TUN | IFF_NO_PI
_SMALL_MTU = 576  # below that of IPv6, 1280
_LONGEST_FRAME = 2048
_IFLA_MTU = 4
_NEWQDISC, _NEWTFILTER, _DELTFILTER = 36, 44, 45
_TCMSG = struct.Struct("=BxxxiIII")  # family, interface, handle, parent, info
_INGRESS_HANDLE, _INGRESS_PARENT = 0xFFFF0000, 0xFFFFFFF1
_KIND, _OPTIONS = 1, 2  # TCA_KIND, TCA_OPTIONS; of an action the same
_FIRST_OF_ALL_PROTOCOLS = 1 << 16 | socket.htons(3)  # priority 1, ETH_P_ALL
_U32_SELECT, _U32_ACTION = 5, 7
# struct tc_u32_sel with one key that matches everything: terminal, no shift, one key, no mask.
_EVERYTHING = struct.pack("=BBBxHHhhIIIii", 1, 0, 1, *(0,) * 9)
_MIRRED = struct.Struct("=IIiiiiI")  # struct tc_mirred
_STOLEN, _INGRESS_REDIRECT = 4, 3  # TC_ACT_STOLEN, TCA_INGRESS_REDIR


class Device:
    """A device that exists as long as its file is open."""

    def __init__(self, file: io.FileIO) -> None:
        """Take over the descriptor of one that `make` has made; raises OSError if it is gone."""
        self._file = file
        self._aim = 0
        name = fcntl.ioctl(file, _TUNGETIFF, _IFREQ.pack(b"", 0))[:16].rstrip(b"\0")
        self.name = name.decode()
        self._interface = socket.if_nametoindex(self.name)

    def send(self, frame: bytes, interface: int) -> None:
        """Let a packet, without link-layer header, come in at this interface; raises OSError.

        When it returns the packet has gone its way, unless the interface spreads its packets over
        processors (RPS).
        """
        if interface != self._aim:
            self._lead_to(interface)
        self._file.write(frame)

    def read(self) -> Iterator[bytes]:
        """Take what was sent out by it, as far as that waits; raises OSError if it is gone."""
        while frame := self._file.read(_LONGEST_FRAME):
            yield frame

    def _lead_to(self, interface: int) -> None:
        if self._aim:
            self._aim = 0
            body = _TCMSG.pack(0, self._interface, 0, _INGRESS_HANDLE, 0)
            _ask(_DELTFILTER, body)
        redirect = _MIRRED.pack(0, 0, _STOLEN, 0, 0, _INGRESS_REDIRECT, interface)
        action = framing.pack_text(_KIND, "mirred") + framing.pack(
            _OPTIONS, framing.pack(2, redirect)
        )
        options = framing.pack(_U32_SELECT, _EVERYTHING)
        options += framing.pack(_U32_ACTION, framing.pack(1, action))
        body = _TCMSG.pack(0, self._interface, 0, _INGRESS_HANDLE, _FIRST_OF_ALL_PROTOCOLS)
        body += framing.pack_text(_KIND, "u32") + framing.pack(_OPTIONS, options)
        _ask(_NEWTFILTER, body, framing.NLM_F_CREATE)
        self._aim = interface

    def close(self) -> None:
        """Take the device away."""
        self._file.close()


def make() -> io.FileIO:
    """Make one that leads nowhere yet; raises OSError with the reason why there is none."""
    file = io.FileIO(os.open(_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), "r+b")
    try:
        request = _IFREQ.pack(f"{NAME_PREFIX}%d".encode(), _TUN_WITHOUT_HEADER)
        name = fcntl.ioctl(file, _TUNSETIFF, request)[:16].rstrip(b"\0").decode()
        interface = socket.if_nametoindex(name)
        up = rtnetlink.IFF_UP
        body = rtnetlink.IFINFOMSG.pack(socket.AF_UNSPEC, 0, interface, up, up)
        _ask(rtnetlink.NEWLINK, body + framing.pack(_IFLA_MTU, struct.pack("=I", _SMALL_MTU)))
        body = _TCMSG.pack(0, interface, _INGRESS_HANDLE, _INGRESS_PARENT, 0)
        _ask(_NEWQDISC, body + framing.pack_text(_KIND, "ingress"), framing.NLM_F_CREATE)
    except OSError:
        file.close()
        raise
    return file


def _ask(kind: int, body: bytes, flags: int = 0) -> None:
    netlink.ask(netlink.NETLINK_ROUTE, kind, body, flags=flags | framing.NLM_F_ACK)
