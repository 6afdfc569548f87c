"""Sockets and device of probes: what is missing for a moment is asked for again."""

import errno
import socket

import pytest

from istio_hostagent.host import probepool

PASSING = (errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.EIO)


def filled(device_errno: int) -> probepool.Pool:
    pool = probepool.Pool()
    assert pool.fill({}, [0, device_errno], [socket.socket(socket.AF_UNIX)])
    return pool


@pytest.mark.parametrize("code", PASSING, ids=errno.errorcode.get)
def test_a_device_that_could_not_be_made_just_then_is_asked_for_again(code: int) -> None:
    pool = filled(code)
    assert not pool.has({})
    pool.close()


def test_where_the_machine_has_no_such_device_nobody_asks_each_time() -> None:
    pool = filled(errno.ENOENT)
    assert pool.has({})
    pool.close()


@pytest.mark.parametrize("code", [*PASSING, errno.EBADFD, errno.ENODEV], ids=errno.errorcode.get)
def test_a_device_that_failed_for_once_is_asked_for_again(code: int) -> None:
    pool = filled(errno.ENOENT)
    pool.give_up_device(code)
    assert not pool.has({})
    pool.close()
