"""The control socket's end of one conversation."""

import json
import os
import socket

import pytest

from istio_hostagent.host import control

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for buffers of any size")


def test_a_caller_that_does_not_read_gets_the_whole_answer_all_the_same() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    lines = [f"+ element {number}" for number in range(100_000)]
    control.Caller(ours, {}).answer({"ok": True, "lines": lines})
    with theirs, theirs.makefile("rb") as read:
        assert json.loads(read.read())["lines"] == lines
