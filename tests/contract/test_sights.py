"""What is promised of what others have seen of files: with real paths, and in memory."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from istio_hostagent.host import mounts, ports, sights
from istio_hostagent.host.answers import looker
from tests.fakes.files import FakeSights

REMOTE, LOCAL = "/remote/token", "/etc/hostname"
ABSENT = looker.Sight(None, None, is_program=False)
THERE = looker.Sight((1, 2, 3), (1, 2, 3), is_program=False)


class Host(NamedTuple):
    sights: ports.Sights
    ask: Callable[[str], object]  # some part wants to know how this file looks


class SightsContract:
    def test_nobody_has_asked_at_first(self, host: Host) -> None:
        assert (host.sights.is_behind, host.sights.remote()) == (False, ())

    def test_what_is_asked_for_is_to_be_looked_at(self, host: Host) -> None:
        host.ask(REMOTE)
        assert (host.sights.is_behind, host.sights.remote()) == (True, (REMOTE,))

    def test_what_the_kernel_answers_for_is_nobodys_to_look_at(self, host: Host) -> None:
        host.ask(LOCAL)
        assert (host.sights.is_behind, host.sights.remote()) == (False, ())

    def test_what_differs_from_before_is_told_once(self, host: Host) -> None:
        host.ask(REMOTE)
        assert host.sights.take([REMOTE], [ABSENT])
        assert not host.sights.is_behind
        assert not host.sights.take([REMOTE], [ABSENT])
        assert host.sights.take([REMOTE], [THERE])
        assert host.sights.remote() == (REMOTE,)

    def test_what_nobody_has_asked_for_says_nothing(self, host: Host) -> None:
        assert not host.sights.take([REMOTE], [THERE])
        assert host.sights.remote() == ()


class _Points(mounts.Mounts):
    """Something is mounted that may never answer."""

    def may_hang(self, path: str, *, follows_link: bool = True) -> bool:
        return path == REMOTE


class TestSights(SightsContract):
    @pytest.fixture
    def host(self) -> Host:
        made = sights.Sights(_Points())
        return Host(made, made.fingerprint)


class TestFakeSights(SightsContract):
    @pytest.fixture
    def host(self) -> Host:
        made = FakeSights({REMOTE})
        return Host(made, made.ask)
