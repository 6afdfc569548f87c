"""What is logged, as the journal gets it and as a terminal does."""

import logging
import socket
from pathlib import Path

from istio_hostagent.agent import fields
from istio_hostagent.cli import log
from istio_hostagent.host import journal


def record(text: str, **values: object) -> logging.LogRecord:
    made = logging.LogRecord("istio_hostagent.x", logging.ERROR, "", 0, text, (), None)
    made.__dict__ |= fields.of(**values)
    return made


def test_a_line_has_its_fields_behind_it() -> None:
    line = log.Formatter(has_prefix=True).format(record("not so", CODE="not-saved", DETAIL="a b"))
    assert line == '<3>not so CODE=not-saved DETAIL="a b"'


def test_an_entry_of_the_journal_is_searched_for_by_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(path))
        assert journal.send({"MESSAGE": "a", "ISTIO_HOSTAGENT_CODE": "bug"}, str(path))
        assert end.recv(4096) == b"MESSAGE=a\nISTIO_HOSTAGENT_CODE=bug\n"
        assert journal.send({"MESSAGE": "a\nb"}, str(path))
        assert end.recv(4096) == b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n"
    path.unlink()
    assert not journal.send({"MESSAGE": "a"}, str(path))
