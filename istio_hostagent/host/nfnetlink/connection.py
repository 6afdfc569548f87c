"""One netlink socket to nf_tables: transactions, dumps, the generation number.

Not here: what the messages mean (`messages`).
A transaction is one datagram, and the kernel takes it whole or not at all. It handles it before
`send` returns: every answer is there by then, and none is waited for.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

from ...errors import ApplyRejected, KernelBusy, NotPermitted, Overtaken
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
# With one message more still well below what mallopt(3) takes for large (M_MMAP_THRESHOLD).
_BLOCK_SIZE = 1 << 15
_TIMEOUT_S = 5
# All that the kernel says of an expression that it does not have, or of a key of one.
_UNKNOWN = (errno.ENOENT, errno.EOPNOTSUPP)
_MISSING = (
    "the kernel may lack a module of nf_tables that the rule needs, such as nft_fib_inet, or"
    " nft_socket of Linux 5.13 or later"
)
_GENERAL = struct.Struct(">BBH")  # struct nfgenmsg: family, version, resource
_OF_INET = _GENERAL.pack(INET, 0, 0)


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

    def dump(
        self, command: int, body: bytes = b"", *, family: int = INET, is_strict: bool = True
    ) -> Iterator[bytes]:
        """Give the attributes of each object; to be read to its end before anything else is asked.

        Raises KernelBusy at the end if `is_strict` and anything at all changed meanwhile.
        """
        flags = NLM_F_REQUEST | framing.NLM_F_DUMP
        return self._request(command, flags, body, family=family, is_strict=is_strict)

    def _request(
        self, command: int, flags: int, body: bytes, *, family: int, is_strict: bool = True
    ) -> Iterator[bytes]:
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
                    if is_interrupted and is_strict:
                        raise KernelBusy("the rules changed while they were read")
                    return

    def _receive(self) -> Iterator[framing.Received]:
        try:
            data = self.socket.recv(_RECEIVE_SIZE)
        except BlockingIOError as error:
            raise KernelBusy("nf_tables did not answer") from error
        return framing.split_messages(data)

    def commit(
        self, parts: Iterable[messages.Message], current: Callable[[], int] | None = None
    ) -> bool:
        """Make all `parts` true, or none; False: there were none.

        `current` gives the generation that they are made for (else it is that of this moment),
        and is asked when they are ready to be sent. Raises what it raises, ApplyRejected with the
        first refused part, Overtaken if anybody committed after that generation, KernelBusy,
        NotPermitted.
        """
        self._answers()
        transaction = _Transaction(self._sequence + 1)
        for part in parts:
            transaction.add(part)
        if not transaction.steps:
            return False
        self._sequence = transaction.close()
        transaction.set_generation((current or self.generation)())
        self._send(transaction.blocks)
        self._check_answers(transaction)
        return True

    def _send(self, blocks: Sequence[bytearray]) -> None:
        """Send them as one datagram."""
        size = sum(map(len, blocks))
        if size > 100_000:
            size *= _SEND_BUFFER_FACTOR
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)
            except PermissionError as error:
                raise NotPermitted("changing rules needs CAP_NET_ADMIN") from error
        self.socket.sendmsg(blocks)

    def _check_answers(self, transaction: "_Transaction") -> None:
        """Look at the answers to a transaction."""
        steps = transaction.steps
        is_done = False
        for message in self._answers():
            if message.kind != framing.NLMSG_ERROR:
                continue
            code, sentence = framing.read_error(message)
            index = message.sequence - transaction.first - 1
            is_part = 0 <= index < len(steps)
            if not code:
                is_done |= index == len(steps) - 1
                continue
            if code == _ERESTART:
                raise Overtaken("somebody else changed the rules at the same moment")
            command, step = steps[index] if is_part else (_BATCH_END, "transaction")
            if code == errno.EPERM and not is_part:
                raise NotPermitted("changing rules needs CAP_NET_ADMIN", hint="run it as root")
            reason = os.strerror(code) + (f" ({sentence})" if sentence else "")
            is_rule = command == messages.NEWRULE
            raise ApplyRejected(
                f"the kernel refused to {step}: {reason}; nothing was changed",
                step=step,
                errno=code,
                hint=_MISSING if is_rule and code in _UNKNOWN else "",
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


class _Transaction:
    """The bytes of one transaction, in blocks: what is asked for in one piece of a megabyte the
    allocator of the C library keeps, what comes in small ones it gives back."""

    def __init__(self, first: int) -> None:
        """Begin; `first` is the sequence number of the begin marker."""
        self.first = first
        self.blocks = [bytearray()]
        self._last_at = 0  # where in the last block the last message begins
        self.steps: list[tuple[int, str]] = []  # command and words of each part
        begin = _GENERAL.pack(0, 0, _SUBSYSTEM) + framing.pack_be32(_BATCH_GENID, 0)
        self._put(_BATCH_BEGIN, NLM_F_REQUEST, first, begin)
        self._end_of_begin = len(self.blocks[0])

    def add(self, part: messages.Message) -> None:
        """Append a part."""
        self.steps.append((part.command, part.step))
        kind, flags = _SUBSYSTEM << 8 | part.command, part.flags | NLM_F_REQUEST
        general = _OF_INET if part.family == INET else _GENERAL.pack(part.family, 0, 0)
        self._put(kind, flags, self.first + len(self.steps), general, part.body)

    def close(self) -> int:
        """Append the end marker; gives the last sequence number."""
        # Errors come unasked; one acknowledgement, of the last part, says that all went in.
        framing.add_flags(self.blocks[-1], self._last_at, NLM_F_ACK)
        sequence = self.first + len(self.steps) + 1
        self._put(_BATCH_END, NLM_F_REQUEST, sequence, _GENERAL.pack(0, 0, _SUBSYSTEM))
        return sequence

    def set_generation(self, generation: int) -> None:
        """Say what it is made for: the last attribute of the begin marker."""
        number = generation.to_bytes(4, "big")
        self.blocks[0][self._end_of_begin - 4 : self._end_of_begin] = number

    def _put(self, kind: int, flags: int, sequence: int, *body: bytes) -> None:
        block = self.blocks[-1]
        if len(block) > _BLOCK_SIZE:
            block = bytearray()
            self.blocks.append(block)
        self._last_at = len(block)
        block += framing.pack_header(kind, flags, sequence, sum(map(len, body)))
        for each in body:
            block += each


def _raise_request_error(message: framing.Received) -> None:
    """Turn the refusal of a request into the error of whoever must act."""
    code, sentence = framing.read_error(message)
    if code in (errno.EPERM, errno.EACCES):
        raise NotPermitted("reading rules needs CAP_NET_ADMIN", hint="run it as root")
    raise KernelBusy(f"nf_tables: {os.strerror(code)}{': ' + sentence if sentence else ''}")
