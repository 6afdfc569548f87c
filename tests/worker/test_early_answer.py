"""A server that answers before it has the whole request, as grpc-go does for an unknown service."""

from pathlib import Path

import pytest

from istio_hostagent.host import ca
from tests.demo import ca_material
from tests.lab.misbehaving import Fault, Istiod

# More than a server takes before it grants more (RFC 9113, 6.9.2), so the answer overtakes it.
LARGE = b"x" * 100_000


def test_an_answer_that_overtakes_the_request_is_not_lost(tmp_path: Path) -> None:
    ca_material.create(tmp_path / "ca")
    turns = iter([True, True, False])
    with Istiod(tmp_path / "ca") as istiod:
        istiod.misbehave(Fault(is_early=lambda: next(turns)))
        roots = istiod.root_file.read_bytes()
        authority = ca.Authority("127.0.0.1", istiod.port, "istiod.istio-system.svc", roots)
        with pytest.raises(ca.ProtocolUnknown, match="UNIMPLEMENTED unknown service"):
            ca.call(authority, "/a.Service/Call", LARGE, ca.NOTHING, timeout_s=60.0)
