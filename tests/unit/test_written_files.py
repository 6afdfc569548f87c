"""Files that are written whole: nobody who may write to their directory gets to read them."""

from pathlib import Path

import pytest

from istio_hostagent.cli.mesh import outfiles


@pytest.fixture
def output(tmp_path: Path) -> Path:
    made = tmp_path / "output"
    made.mkdir()
    return made


def test_a_secret_is_not_written_through_a_link_that_was_planted(output: Path) -> None:
    elsewhere = output.parent / "elsewhere"
    elsewhere.write_bytes(b"")
    (output / "key.pem.new").symlink_to(elsewhere)
    outfiles.write(str(output), {"key.pem": b"secret"})
    assert elsewhere.read_bytes() == b""
    assert (output / "key.pem").read_bytes() == b"secret"
    assert not (output / "key.pem").is_symlink()


def test_who_has_opened_a_file_before_it_was_written_does_not_see_the_secret(output: Path) -> None:
    with (output / "key.pem.new").open("w+b") as opened:
        outfiles.write(str(output), {"key.pem": b"secret"})
        assert opened.read() == b""
    assert (output / "key.pem").stat().st_mode & 0o777 == 0o600
