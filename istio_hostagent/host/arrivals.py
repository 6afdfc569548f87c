"""Frames that enter where a neighbour's would: how far each got, and who dropped it.

For each expectation there are two, one as everybody's and one that our rules do not capture: what
the host's firewall does with the second is what it does without us. Not here: the rules that
follow them (`frametable`), what their fates mean (`redirect.expectations`).
"""

import contextlib
import errno
import ipaddress
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ..errors import HostAgentError
from ..redirect import firewall
from ..redirect.expectations import Arrival, Expectation, Fate, Outcome
from . import frametable, linkpaths, probedevice, synpacket, tracing
from .frametable import Stage
from .nfnetlink import connection, messages

# After so many looks, of two milliseconds each, what has entered and not arrived was dropped: only
# processors that are told to share the work of an interface, or a queue, take any time at all.
_PATIENCE = 3
# So many of those that were dropped are sent again to see who does it.
_MAX_TRACED = 8
_FIRST_PORT, _PORTS = 20000, 40000
_ETHERNET_HEADER = 14


class Frame(NamedTuple):
    """One frame: which expectation it is of, and whether our rules leave it alone."""

    number: int
    is_direct: bool


class Arrivals:
    """The frames of one round."""

    def __init__(self, made: Mapping[int, Expectation]) -> None:
        """`made`: expectations by their number; raises KernelBusy, NotPermitted."""
        self._made = made
        self._frames = frametable.Frames()
        self._paths = linkpaths.find_paths({each.destination for each in made.values()})
        self._next_port = int.from_bytes(os.urandom(2), "big")
        self._sent: dict[int, Frame] = {}  # by source port
        self._steps: dict[int, dict[Stage, frametable.Step]] = {}
        self._looks = 0
        self._droppers: dict[Frame, firewall.Dropper] = {}
        self._passages: dict[Frame, tuple[firewall.Passage, ...]] = {}
        self._traced: set[Frame] = set()
        self.failed: dict[int, int] = {}  # why an expectation's frames could not be sent

    def build(self, table: str) -> Iterator[messages.Message]:
        """Give what the table needs to follow them."""
        return self._frames.build(table)

    def send(self, device: probedevice.Device) -> int:
        """Send them all; gives 0, or why the device does not work."""
        code = 0
        by_interface = sorted(self._made, key=lambda index: self._interface(index))
        for index in by_interface:
            if not self._interface(index):
                self.failed[index] = errno.EADDRNOTAVAIL
                continue
            try:
                for is_direct in (False, True):
                    self._sent[self._send(device, index, is_direct=is_direct)] = Frame(
                        index, is_direct
                    )
            except (HostAgentError, OSError) as error:
                self.failed[index] = code = getattr(error, "errno", None) or errno.EIO
        return code

    def _interface(self, index: int) -> int:
        path = self._paths.get(self._made[index].destination)
        return path.interface if path is not None else 0

    def _send(
        self,
        device: probedevice.Device,
        index: int,
        *,
        is_direct: bool,
        is_traced: bool = False,
    ) -> int:
        """Send one; gives its source port."""
        expectation = self._made[index]
        path = self._paths[expectation.destination]
        self._next_port += 1
        source_port = _FIRST_PORT + self._next_port % _PORTS
        frame = synpacket.build_frame(
            path.source,
            source_port,
            ipaddress.ip_address(expectation.destination),
            expectation.port,
            self._frames.sequence(is_direct=is_direct, is_traced=is_traced),
        )
        device.send(frame[_ETHERNET_HEADER:], path.interface)
        return source_port

    def look(self, steps: Iterator[frametable.Step]) -> bool:
        """Take what was recorded; whether nothing more is to come."""
        self._looks += 1
        self._steps = {}
        for step in steps:
            self._steps.setdefault(step.source_port, {})[step.stage] = step
        is_complete = all(Stage.ARRIVED in self._steps.get(port, {}) for port in self._sent)
        return is_complete or self._looks >= _PATIENCE

    def trace(self, table: str) -> Iterator[messages.Message]:
        """Give what the table needs before `blame`."""
        return self._frames.trace(table)

    @property
    def missing(self) -> list[Frame]:
        """Those that did not arrive, the most telling first."""
        arrived = {
            frame for port, frame in self._sent.items() if Stage.ARRIVED in self._stages(port)
        }
        missing = [frame for frame in self._sent.values() if frame not in arrived]
        # Where one of the two arrives, capture makes the difference.
        others = {frame: Frame(frame.number, not frame.is_direct) for frame in missing}
        return sorted(missing, key=lambda frame: (others[frame] not in arrived, frame.is_direct))

    def blame(self, link: connection.Connection, device: probedevice.Device) -> None:
        """Send some of those that are missing again and hear who drops them.

        Of a captured one that is dropped alone, who lets the other in is heard as well. Raises
        KernelBusy, NotPermitted.
        """
        traced: dict[int, Frame] = {}
        missing = self.missing
        again = missing[:_MAX_TRACED]
        others = (Frame(each.number, is_direct=True) for each in again if not each.is_direct)
        again += [each for each in others if each not in missing]
        with contextlib.closing(tracing.Tracer()) as tracer:
            for frame in again:
                with contextlib.suppress(HostAgentError, OSError):
                    port = self._send(
                        device, frame.number, is_direct=frame.is_direct, is_traced=True
                    )
                    traced[port] = frame
                    self._traced.add(frame)
            verdicts = tracer.read()
        texts: dict[firewall.Dropper, firewall.Dropper] = {}
        for port, frame in traced.items():
            sequence = self._frames.sequence(is_direct=frame.is_direct, is_traced=True)
            verdict = verdicts.get((port, sequence))
            if verdict is None:
                continue
            self._passages[frame] = verdict.passages
            dropper = verdict.dropper
            if dropper is None:
                continue
            if dropper not in texts:
                texts[dropper] = dropper
                with contextlib.suppress(HostAgentError):  # the rule has just gone
                    texts[dropper] = tracing.with_text(link, dropper)
            self._droppers[frame] = texts[dropper]

    def _stages(self, port: int) -> dict[Stage, frametable.Step]:
        return self._steps.get(port, {})

    def outcomes(self) -> Iterator[tuple[int, Outcome]]:
        """Give what came of each expectation."""
        ports = {frame: port for port, frame in self._sent.items()}
        for index, expectation in self._made.items():
            if index in self.failed:
                yield index, Outcome(errno=self.failed[index])
                continue
            captured, direct = Frame(index, is_direct=False), Frame(index, is_direct=True)
            path = self._paths[expectation.destination]
            going = self._stages(ports[captured]).get(Stage.TRANSLATED)
            arrival = Arrival(
                self._fate(captured, ports[captured]),
                self._fate(direct, ports[direct]),
                str(path.source),
                path.name,
                self._droppers.get(captured, self._droppers.get(direct)),
                not self._traced.isdisjoint((captured, direct)),
                self._passages.get(direct, ()),
            )
            address, port = (going.address, going.port) if going is not None else ("", 0)
            yield index, Outcome(address, port, arrival=arrival)

    def _fate(self, frame: Frame, port: int) -> Fate:
        stages = self._stages(port)
        if Stage.ARRIVED in stages:
            return Fate.ARRIVED
        if not stages:
            return Fate.UNSEEN
        is_lost = Stage.TRANSLATED in stages and Stage.ROUTED not in stages
        return Fate.LOST if is_lost and frame not in self._droppers else Fate.DROPPED
