"""Which chains are believed, which requests are sent, which answers are understood."""

import base64
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.errors import CertificateUntrusted
from istio_hostagent.host import keys
from istio_hostagent.identity import certificates, csr, trust

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WEB = "spiffe://cluster.local/ns/vms/sa/web"
KEY = keys.generate_key()
CA_KEYS = tuple(keys.generate_key() for _ in range(4))
NO_USAGE = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


@dataclass(frozen=True)
class Spec:
    """A certificate to be made; the defaults are those of a good intermediate."""

    subject: str
    issuer: str
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    signer: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    start: datetime = NOW - timedelta(minutes=2)
    end: datetime = NOW + timedelta(hours=24)
    names: tuple[x509.GeneralName, ...] = ()
    is_ca: bool | None = True
    path_length: int | None = None
    usages: frozenset[str] = frozenset({"key_cert_sign"})
    purposes: tuple[x509.ObjectIdentifier, ...] = ()
    extra: tuple[x509.ExtensionType, ...] = ()
    digest: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def make(spec: Spec) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(spec.subject))
        .issuer_name(name(spec.issuer))
        .public_key(spec.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(spec.start)
        .not_valid_after(spec.end)
    )
    if spec.names:
        builder = builder.add_extension(x509.SubjectAlternativeName(spec.names), critical=True)
    if spec.is_ca is not None:
        length = spec.path_length if spec.is_ca else None
        builder = builder.add_extension(x509.BasicConstraints(spec.is_ca, length), critical=True)
    if spec.usages:
        usage = x509.KeyUsage(**{**NO_USAGE, **dict.fromkeys(spec.usages, True)})
        builder = builder.add_extension(usage, critical=True)
    if spec.purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(spec.purposes), critical=False)
    for extension in spec.extra:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(spec.signer, spec.digest)


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def root(**changed: object) -> x509.Certificate:
    usual: dict[str, object] = {
        "subject": "Root", "issuer": "Root", "key": CA_KEYS[0], "signer": CA_KEYS[0]
    }  # fmt: skip
    return make(Spec(**{**usual, **changed}))  # type: ignore[arg-type]  # a table of overrides


def intermediate(**changed: object) -> x509.Certificate:
    usual: dict[str, object] = {
        "subject": "Middle", "issuer": "Root", "key": CA_KEYS[1], "signer": CA_KEYS[0]
    }  # fmt: skip
    return make(Spec(**{**usual, **changed}))  # type: ignore[arg-type]  # a table of overrides


def leaf(**changed: object) -> x509.Certificate:
    usual: dict[str, object] = {
        "subject": "",
        "issuer": "Middle",
        "key": KEY,
        "signer": CA_KEYS[1],
        "names": (uri(WEB),),
        "is_ca": False,
        "usages": frozenset({"digital_signature", "key_encipherment"}),
        "purposes": (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    }
    return make(Spec(**{**usual, **changed}))  # type: ignore[arg-type]  # a table of overrides


EXPECTED = trust.Expected(keys.public_part(KEY), WEB, NOW)
ROOT = root()
MIDDLE = intermediate()


def test_good_chain_is_believed_and_its_validity_returned() -> None:
    validity = trust.validate(
        (leaf(), MIDDLE), (root(subject="Other", issuer="Other"), ROOT), EXPECTED
    )
    assert validity.not_before == NOW - timedelta(minutes=2)
    assert validity.not_after == NOW + timedelta(hours=24)


def test_leaf_straight_from_a_root_is_believed() -> None:
    trust.validate((leaf(issuer="Root", signer=CA_KEYS[0]),), (ROOT,), EXPECTED)


def test_chain_that_carries_its_root_is_believed() -> None:
    trust.validate((leaf(), MIDDLE, ROOT), (ROOT,), EXPECTED)


def test_rsa_authority_is_believed() -> None:
    key = rsa.generate_private_key(65537, 2048)
    middle = intermediate(key=key)
    trust.validate((leaf(signer=key, digest=hashes.SHA384()), middle), (ROOT,), EXPECTED)


def test_second_root_of_the_same_name_is_tried_too() -> None:
    stranger = root(key=CA_KEYS[3], signer=CA_KEYS[3])
    trust.validate((leaf(), MIDDLE), (stranger, ROOT), EXPECTED)


def test_clock_of_the_ca_may_be_a_little_ahead() -> None:
    trust.validate((leaf(start=NOW + timedelta(seconds=50)), MIDDLE), (ROOT,), EXPECTED)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        pytest.param({"key": CA_KEYS[2]}, "for another key", id="key"),
        pytest.param({"names": (uri(WEB + "2"),)}, f"is for {WEB}2, not for", id="name"),
        pytest.param({"names": ()}, "no URI name", id="no name"),
        pytest.param({"names": (x509.DNSName("web"),)}, "no URI name", id="DNS name only"),
        pytest.param({"names": (uri(WEB), uri(WEB + "2"))}, " and ", id="two names"),
        pytest.param({"names": (uri(WEB), uri(WEB))}, " and ", id="same name twice"),
        pytest.param({"is_ca": True}, "is a CA's own", id="CA"),
        pytest.param({"usages": frozenset({"key_agreement"})}, "for signatures", id="usage"),
        pytest.param({"purposes": (ExtendedKeyUsageOID.CLIENT_AUTH,)}, "TLS server", id="client"),
        pytest.param({"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)}, "TLS client", id="server"),
        pytest.param({"end": NOW}, "expired on 2026-03-01 12:00:00 UTC", id="expired"),
        pytest.param({"start": NOW + timedelta(seconds=61)}, "valid only from", id="future"),
        pytest.param({"signer": CA_KEYS[2]}, "is not signed by its issuer", id="signature"),
        pytest.param({"issuer": "Else"}, "not followed by its issuer", id="issuer"),
        pytest.param({"extra": (x509.PolicyConstraints(0, None),)}, "critical", id="critical"),
    ],
)  # fmt: skip
def test_bad_leaf_is_refused_with_its_fault(changed: dict[str, object], words: str) -> None:
    with pytest.raises(CertificateUntrusted, match=words):
        trust.validate((leaf(**changed), MIDDLE), (ROOT,), EXPECTED)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        pytest.param({"is_ca": False}, "is no CA", id="no CA"),
        pytest.param({"is_ca": None}, "is no CA", id="CA not said"),
        pytest.param({"usages": frozenset({"crl_sign"})}, "may not sign certificates", id="usage"),
        pytest.param({"end": NOW - timedelta(seconds=1)}, "Middle.* expired on", id="expired"),
        pytest.param({"signer": CA_KEYS[2]}, "no root that we trust", id="signature"),
        pytest.param({"issuer": "Unknown"}, "CN=Unknown, which is no root", id="issuer"),
        pytest.param(
            {"extra": (x509.NameConstraints([uri("other.example")], None),)},
            "may not sign for", id="permitted names",
        ),
        pytest.param(
            {"extra": (x509.NameConstraints(None, [uri("cluster.local")]),)},
            "may not sign for", id="excluded names",
        ),
    ],
)  # fmt: skip
def test_bad_intermediate_is_refused_with_its_fault(
    changed: dict[str, object], words: str
) -> None:
    with pytest.raises(CertificateUntrusted, match=words):
        trust.validate((leaf(), intermediate(**changed)), (ROOT,), EXPECTED)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        pytest.param({"is_ca": False}, "Root.* is no CA", id="no CA"),
        pytest.param({"end": NOW - timedelta(seconds=1)}, "Root.* expired on", id="expired"),
        pytest.param({"path_length": 0}, "allows 0 more CAs below it, not 1", id="path length"),
        pytest.param({"key": CA_KEYS[2], "signer": CA_KEYS[2]}, "no root that we trust", id="key"),
    ],
)
def test_bad_root_is_refused_with_its_fault(changed: dict[str, object], words: str) -> None:
    with pytest.raises(CertificateUntrusted, match=words):
        trust.validate((leaf(), MIDDLE), (root(**changed),), EXPECTED)


def test_name_constraints_that_fit_are_no_fault() -> None:
    fitting = x509.NameConstraints([uri("cluster.local")], [uri(".cluster.local")])
    trust.validate((leaf(), intermediate(extra=(fitting,))), (ROOT,), EXPECTED)


def test_path_length_counts_the_authorities_below() -> None:
    lower = intermediate(subject="Lower", issuer="Middle", key=CA_KEYS[2], signer=CA_KEYS[1])
    end = leaf(issuer="Lower", signer=CA_KEYS[2])
    trust.validate((end, lower, intermediate(path_length=1)), (ROOT,), EXPECTED)
    with pytest.raises(CertificateUntrusted, match="allows 0 more CAs below it, not 1"):
        trust.validate((end, lower, intermediate(path_length=0)), (ROOT,), EXPECTED)


def test_weak_digest_is_refused() -> None:
    # ecdsa-with-SHA256 and, one arc below, ecdsa-with-SHA224; the library itself no longer signs
    # with anything weak.
    strong, weak = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d040301")
    der = leaf().public_bytes(serialization.Encoding.DER)
    assert der.count(strong) == 2
    changed = x509.load_der_x509_certificate(der.replace(strong, weak))
    with pytest.raises(CertificateUntrusted, match="is not signed by its issuer"):
        trust.validate((changed, MIDDLE), (ROOT,), EXPECTED)


@pytest.mark.parametrize(("chain", "roots"), [((), (ROOT,)), ((leaf(), MIDDLE), ())])
def test_nothing_to_check_or_to_check_against_is_refused(
    chain: tuple[x509.Certificate, ...], roots: tuple[x509.Certificate, ...]
) -> None:
    with pytest.raises(CertificateUntrusted):
        trust.validate(chain, roots, EXPECTED)


def test_wrong_order_of_the_chain_is_refused() -> None:
    with pytest.raises(CertificateUntrusted):
        trust.validate((MIDDLE, leaf()), (ROOT,), EXPECTED)


def test_pem_bundle_is_read_in_order_with_text_between() -> None:
    text = b"# ours\n" + certificates.render_certificates((ROOT,)) + b"\n# theirs\n"
    text += certificates.render_certificates((MIDDLE,)).replace(b"\n", b"\r\n")
    assert certificates.parse_certificates(text) == (ROOT, MIDDLE)


@pytest.mark.parametrize(
    "text",
    [
        b"-----BEGIN CERTIFICATE-----\nMII",
        b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        certificates.render_certificates((ROOT,)) * 65,
    ],
    ids=["cut-off", "no-base64", "no-certificate", "too-many"],
)
def test_broken_or_endless_pem_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        certificates.parse_certificates(text)


@given(st.binary(max_size=400))
def test_any_bytes_as_certificate_are_refused_or_read(data: bytes) -> None:
    text = b"-----BEGIN CERTIFICATE-----\n" + data + b"\n-----END CERTIFICATE-----\n"
    with pytest.raises(ValueError):
        certificates.parse_certificates(text)


# cryptography warns of what a changed byte may make, a negative serial number for one.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@given(st.integers(min_value=0), st.integers(min_value=0, max_value=255))
def test_certificate_with_a_changed_byte_is_never_believed(place: int, value: int) -> None:
    der = bytearray(leaf().public_bytes(serialization.Encoding.DER))
    if der[place % len(der)] == value:
        return
    der[place % len(der)] = value
    text = base64.encodebytes(bytes(der))
    text = b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"
    try:
        (changed,) = certificates.parse_certificates(text)
    except ValueError:
        return
    with pytest.raises(CertificateUntrusted):
        trust.validate((changed, MIDDLE), (ROOT,), EXPECTED)


def test_request_asks_for_one_name_and_nothing_else() -> None:
    request = x509.load_pem_x509_csr(csr.build_request(KEY, WEB))
    assert request.is_signature_valid
    assert not list(request.subject)
    (extension,) = request.extensions
    assert extension.critical
    assert list(extension.value) == [uri(WEB)]
    assert isinstance(request.public_key(), ec.EllipticCurvePublicKey)
