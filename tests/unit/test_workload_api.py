"""What an answer of SPIFFE's Workload API is taken for."""

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent import protobuf
from istio_hostagent.identity import certificates
from istio_hostagent.sds import asking, workloadapi
from tests.demo import ca_material

ID = "spiffe://example.org/ns/vms/sa/web"
SMALL = b"\x30\x03abc"
LONG = b"\x30\x82\x01\x00" + b"x" * 256


def svid(identity: str, chain: bytes, key: bytes = b"key", bundle: bytes = SMALL) -> bytes:
    parts = (identity.encode(), chain, key, bundle)
    body = b"".join(protobuf.render_bytes(n, part) for n, part in enumerate(parts, 1) if part)
    return protobuf.render_bytes(1, body)


def test_certificates_that_stand_one_behind_the_other_become_pem() -> None:
    roots = certificates.parse_certificates(ca_material.many_roots(3))
    der = b"".join(each.public_bytes(serialization.Encoding.DER) for each in roots)
    found = workloadapi.parse_response(svid(ID, der), ID)
    assert certificates.parse_certificates(found[asking.CHAIN]) == roots


def test_the_wanted_one_of_several_and_else_the_first() -> None:
    message = svid("spiffe://a/1", SMALL, b"1") + svid(ID, LONG, b"2")
    for wanted, key in ((ID, b"Mg=="), ("spiffe://a/1", b"MQ=="), ("spiffe://none", b"MQ==")):
        assert key in workloadapi.parse_response(message, wanted)[asking.KEY]


def test_what_is_not_there_is_left_out() -> None:
    assert workloadapi.parse_response(b"", ID) == {}
    found = workloadapi.parse_response(svid(ID, SMALL, b"", b""), ID)
    assert found.keys() == {asking.CHAIN}


@pytest.mark.parametrize(
    "chain",
    [SMALL[:-1], b"\x31\x00", b"\x30", b"\x30\x80abc", LONG[:-1], b"\x30\x84\x7f", b"garbage"],
)
def test_what_is_no_certificate_is_refused(chain: bytes) -> None:
    with pytest.raises(ValueError, match="certificate"):
        workloadapi.parse_response(svid(ID, chain), ID)


@given(st.binary(max_size=64))
def test_any_bytes_are_refused_or_taken_as_a_whole(chain: bytes) -> None:
    try:
        found = workloadapi.parse_response(svid(ID, chain), ID)
    except ValueError:
        return
    assert (asking.CHAIN in found) == bool(chain)
