"""One netlink socket to nf_tables: transactions, dumps, the generation number.

Not here: what the messages mean (`messages`).
A transaction is one datagram, and the kernel takes it whole or not at all. It handles it before
`send` returns: every answer is there by then, and none is waited for.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from ...errors import ApplyRejected, KernelBusy, NotPermitted
from . import framing, messages
from .framing import NLM_F_ACK, NLM_F_REQUEST

NETLINK_NETFILTER = 12
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_BATCH_GENID = 1  # NFNL_BATCH_GENID
INET = 1  # NFPROTO_INET
_SOL_NETLINK, _ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK = 270, 1, 10, 11
_SO_RCVTIMEO, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 20, 32, 33
_ERESTART = 85  # somebody else's transaction came between
# What the kernel's accounting adds for a large datagram; measured with 50 000 elements.
_SEND_BUFFER_FACTOR = 2
_RECEIVE_SIZE = 1 << 16
_TIMEOUT_S = 5
# ENOENT is all that the kernel says of an expression that it does not have.
_MISSING = "the kernel may lack a module of nf_tables that the rule needs, such as nft_fib_inet"
_GENERAL = struct.Struct(">BBH")  # struct nfgenmsg: family, version, resource


def open_socket(groups: Sequence[int] = ()) -> socket.socket:
    """Open a socket that hears the multicast `groups`; raises NotPermitted."""
    made = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
    )
    try:
        made.bind((0, 0))
        for group in groups:
            made.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except PermissionError as error:
        made.close()
        raise NotPermitted(
            "watching nf_tables needs CAP_NET_ADMIN", hint="run it as root"
        ) from error
    return made


def force_receive_buffer(sock: socket.socket, size: int) -> None:
    """Make room for bursts of events; without CAP_NET_ADMIN the default stays."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        return


class Connection:
    """A request socket. One thread at a time."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        """Use `sock`, which may have lived through an earlier process, or open one."""
        self.socket = sock or open_socket()
        # The kernel's own time-out: one of Python's would make every look without waiting wait.
        self.socket.setblocking(True)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVTIMEO, struct.pack("@ll", _TIMEOUT_S, 0))
        for option in (_CAP_ACK, _EXT_ACK):
            self.socket.setsockopt(_SOL_NETLINK, option, 1)
        # Unanswered rests of an earlier process carry low numbers; ours start anywhere.
        self._sequence = int.from_bytes(os.urandom(3), "big")
        self._answers()

    @property
    def port(self) -> int:
        """The number by which the kernel knows the socket, and names it as a table's owner."""
        return int(self.socket.getsockname()[0])

    def generation(self) -> int:
        """Give the number that every committed transaction of anybody changes."""
        for body in self._request(messages.GETGEN, NLM_F_REQUEST, b"", family=0):
            return framing.be32(framing.read(body).get(1, b""))
        raise KernelBusy("nf_tables did not tell its generation")

    def dump(self, command: int, body: bytes = b"") -> list[bytes]:
        """Give the attributes of each object; raises KernelBusy if it changed meanwhile."""
        flags = NLM_F_REQUEST | framing.NLM_F_DUMP
        return list(self._request(command, flags, body, family=INET))

    def _request(self, command: int, flags: int, body: bytes, *, family: int) -> Iterator[bytes]:
        self._sequence += 1
        general = _GENERAL.pack(family, 0, 0)
        request = framing.pack_message(
            _SUBSYSTEM << 8 | command, flags, self._sequence, general + body
        )
        self.socket.send(request)
        is_interrupted = False
        while True:
            for message in self._receive():
                if message.sequence != self._sequence:
                    continue
                is_interrupted |= bool(message.flags & framing.NLM_F_DUMP_INTR)
                if message.kind == framing.NLMSG_ERROR:
                    _raise_request_error(message)
                elif message.kind != framing.NLMSG_DONE:
                    yield message.body[_GENERAL.size :]
                if message.kind == framing.NLMSG_DONE or not flags & framing.NLM_F_DUMP:
                    if is_interrupted:
                        raise KernelBusy("the rules changed while they were read")
                    return

    def _receive(self) -> Iterator[framing.Received]:
        try:
            data = self.socket.recv(_RECEIVE_SIZE)
        except BlockingIOError as error:
            raise KernelBusy("nf_tables did not answer") from error
        return framing.split_messages(data)

    def commit(self, parts: Sequence[messages.Message], generation: int) -> None:
        """Make all `parts` true, or none.

        Raises ApplyRejected with the first refused part, KernelBusy if anybody committed after
        `generation`, NotPermitted.
        """
        self._answers()
        first = self._sequence + 1
        self._sequence += len(parts) + 2
        begin = _GENERAL.pack(0, 0, _SUBSYSTEM) + framing.pack_be32(_BATCH_GENID, generation)
        pieces = [framing.pack_message(_BATCH_BEGIN, NLM_F_REQUEST, first, begin)]
        general = _GENERAL.pack(INET, 0, 0)
        for sequence, part in enumerate(parts, first + 1):
            # Errors come unasked; one acknowledgement, of the last part, says that all went in.
            flags = part.flags | NLM_F_REQUEST
            if sequence == first + len(parts):
                flags |= NLM_F_ACK
            pieces.append(
                framing.pack_message(
                    _SUBSYSTEM << 8 | part.command, flags, sequence, general + part.body
                )
            )
        end = _GENERAL.pack(0, 0, _SUBSYSTEM)
        pieces.append(framing.pack_message(_BATCH_END, NLM_F_REQUEST, self._sequence, end))
        self._send(b"".join(pieces))
        self._judge(parts, first)

    def _send(self, data: bytes) -> None:
        if len(data) > 100_000:
            size = len(data) * _SEND_BUFFER_FACTOR
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)
            except PermissionError as error:
                raise NotPermitted("changing rules needs CAP_NET_ADMIN") from error
        self.socket.send(data)

    def _judge(self, parts: Sequence[messages.Message], first: int) -> None:
        """Look at the answers to a transaction."""
        is_done = False
        for message in self._answers():
            if message.kind != framing.NLMSG_ERROR:
                continue
            code, sentence = framing.read_error(message)
            index = message.sequence - first - 1
            if not code:
                is_done |= index == len(parts) - 1
                continue
            if code == _ERESTART:
                raise KernelBusy("somebody else changed the rules at the same moment")
            step = parts[index].step if 0 <= index < len(parts) else "transaction"
            if code == errno.EPERM and not 0 <= index < len(parts):
                raise NotPermitted("changing rules needs CAP_NET_ADMIN", hint="run it as root")
            reason = os.strerror(code) + (f" ({sentence})" if sentence else "")
            is_rule = 0 <= index < len(parts) and parts[index].command == messages.NEWRULE
            raise ApplyRejected(
                f"the kernel refused to {step}: {reason}; nothing was changed",
                step=step,
                errno=code,
                hint=_MISSING if is_rule and code == errno.ENOENT else "",
            )
        if not is_done:
            raise KernelBusy("nf_tables did not confirm the transaction")

    def _answers(self) -> list[framing.Received]:
        """Take everything that is waiting, without waiting."""
        found: list[framing.Received] = []
        while True:
            try:
                data = self.socket.recv(_RECEIVE_SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            found += framing.split_messages(data)


def _raise_request_error(message: framing.Received) -> None:
    """Turn the refusal of a request into the error of whoever must act."""
    code, sentence = framing.read_error(message)
    if code in (errno.EPERM, errno.EACCES):
        raise NotPermitted("reading rules needs CAP_NET_ADMIN", hint="run it as root")
    raise KernelBusy(f"nf_tables: {os.strerror(code)}{': ' + sentence if sentence else ''}")
