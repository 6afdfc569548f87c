"""The certificate worker against a classic CA, and whoever mistakes one kind of CA for the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from istio_hostagent.identity import certificates
from tests.demo.ca import DemoAuthority
from tests.lab.citadel import Citadel

from .test_certificate_worker import SUBJECT, WEB, Host, assert_pair_matches, error_of, held_of

DEFAULT = "spiffe://cluster.local/ns/default/sa/default"


def host_of(directory: Path, citadel: DemoAuthority, **changed: object) -> Host:
    defaults = {"server_name": "istio-citadel", "protocols": ["citadel", "istiod"]}
    made = Host(directory / "host", citadel, {**defaults, **changed})
    made.output.mkdir(parents=True)
    return made


def provide(host: Host, citadel: Citadel, identity: str, *, life_s: float = 3600.0) -> None:
    """What `machineCerts` of the classic guide puts on a machine."""
    chain, key = citadel.bootstrap(identity, life_s=life_s)
    (host.output / "cert-chain.pem").write_bytes(chain)
    (host.output / "key.pem").write_bytes(key)
    (host.output / "root-cert.pem").write_bytes(citadel.root.pem)


@pytest.fixture
def citadel(tmp_path: Path) -> Iterator[Citadel]:
    made = Citadel(tmp_path / "ca")
    with made:
        yield made


@pytest.fixture
def host(tmp_path: Path, citadel: Citadel) -> Host:
    made = host_of(tmp_path, citadel)
    provide(made, citadel, WEB)
    return made


def test_first_certificate_comes_by_the_provisioned_pair(host: Host, citadel: Citadel) -> None:
    answer = host.run("renew")
    held = held_of(answer)
    assert (held["via"], held["protocol"], held["identity"]) == ("provisioned", "citadel", WEB)
    assert_pair_matches(host.output)
    # The root is never returned: what the operator has put there goes on.
    assert (host.output / "root-cert.pem").read_bytes() == citadel.root.pem
    key = (host.output / "key.pem").read_bytes()
    assert key.startswith(b"-----BEGIN RSA PRIVATE KEY-----")
    [(fields, csr)] = citadel.asked
    assert (fields[3], fields[4]) == ([b"onprem"], [60])
    assert csr is not None
    # It copies whatever it is asked for: so it is asked for one name and nothing else.
    assert [each.oid for each in csr.extensions] == [x509.SubjectAlternativeName.oid]
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier(WEB)]


def test_renewal_shows_what_was_obtained_last(host: Host, citadel: Citadel) -> None:
    first = held_of(host.run("renew"))
    second = held_of(host.run("renew"))
    assert (second["via"], second["obtained"]) == ("certificate", True)
    assert first["serial"] != second["serial"]


def test_a_provisioned_pair_is_held_as_it_is(host: Host, citadel: Citadel) -> None:
    held = held_of(host.run("ensure"))
    assert (held["identity"], held["obtained"]) == (WEB, False)
    assert citadel.asked == []


def test_who_the_host_is_comes_from_the_provisioned_pair(tmp_path: Path, citadel: Citadel) -> None:
    host = host_of(tmp_path, citadel, spiffe_id=DEFAULT, named_parts=[])
    provide(host, citadel, WEB)
    assert held_of(host.run("renew"))["identity"] == WEB
    # It stays so when the pair has been put away.
    assert held_of(host.run("renew"))["identity"] == WEB


def test_what_a_key_says_of_the_host_counts_more_than_the_pair(
    tmp_path: Path, citadel: Citadel
) -> None:
    host = host_of(tmp_path, citadel, spiffe_id=DEFAULT, named_parts=["namespace"])
    provide(host, citadel, WEB)
    error = error_of(host.run("renew"))
    assert error["code"] == "credential-missing"
    assert f"the provisioned certificate is for {WEB}, not for {DEFAULT}" in error["message"]
    assert citadel.asked == []


def test_an_expired_pair_is_named_and_any_other_credential_is_used(
    tmp_path: Path, citadel: Citadel
) -> None:
    host = host_of(tmp_path, citadel)
    provide(host, citadel, WEB, life_s=-60)
    error = error_of(host.run("renew"))
    assert "the provisioned certificate expired on" in error["message"]
    assert citadel.asked == []
    host.give_token(citadel.token(SUBJECT))
    answer = host.run("renew")
    assert held_of(answer)["via"] == "token"
    looked = answer["credentials"]
    assert isinstance(looked, list)
    assert [each["via"] for each in looked] == ["certificate", "provisioned", "token"]
    assert "expired on" in looked[1]["reason"]


def test_answer_of_older_releases_has_the_chain_in_one_field(
    tmp_path: Path,
) -> None:
    citadel = Citadel(tmp_path / "ca", is_plugged=True)
    with citadel:
        host = host_of(tmp_path, citadel)
        provide(host, citadel, WEB)
        for citadel.is_in_two_fields in (False, True):
            assert held_of(host.run("renew"))["obtained"] is True
            chain = certificates.parse_certificates((host.output / "cert-chain.pem").read_bytes())
            # Its own leaf comes without the intermediate; ours in hand makes up for that.
            assert len(chain) == 2
            assert (host.output / "root-cert.pem").read_bytes() == citadel.root.pem


def test_a_life_that_is_too_long_is_asked_for_as_the_ca_allows_it(
    host: Host, citadel: Citadel
) -> None:
    citadel.max_ttl_s = 168 * 3600
    held = held_of(host.run("renew", ttl_s=200 * 3600))
    assert isinstance(held["not_after"], float)
    assert isinstance(held["received"], float)
    assert held["not_after"] - held["received"] == pytest.approx(168 * 3600, abs=60)
    assert [fields[4] for fields, _ in citadel.asked] == [[200 * 60], [168 * 60]]


@pytest.mark.parametrize(("ttl_s", "minutes"), [(0, 1440), (1, 1), (59, 1), (90, 1), (7200, 120)])
def test_no_certificate_without_a_life_is_asked_for(
    host: Host, citadel: Citadel, ttl_s: int, minutes: int
) -> None:
    assert held_of(host.run("renew", ttl_s=ttl_s))["obtained"] is True
    assert citadel.asked[0][0][4] == [minutes]


def test_who_does_not_approve_is_named(host: Host, citadel: Citadel) -> None:
    citadel.is_approving = False
    before = host.tree()
    error = error_of(host.run("renew"))
    assert "the CA's answer cannot be used: the request is not approved" in error["message"]
    assert host.tree() == before


def test_a_curve_that_the_ca_does_not_sign_is_named(host: Host, citadel: Citadel) -> None:
    answer = host.run("renew", key_kind="ec-p384")
    assert "requested SignatureAlgorithm does not match" in error_of(answer)["message"]


def test_the_protocol_is_found_out(tmp_path: Path, citadel: Citadel) -> None:
    host = host_of(tmp_path, citadel, protocols=["istiod", "citadel"])
    provide(host, citadel, WEB)
    assert held_of(host.run("renew"))["protocol"] == "citadel"
    with DemoAuthority.create(tmp_path / "modern") as modern:
        other = host_of(tmp_path / "other", modern, server_name="istiod.istio-system.svc")
        (other.output / "root-cert.pem").write_bytes(modern.root_file.read_bytes())
        other.give_token(modern.token(SUBJECT))
        held = held_of(other.run("renew"))
    assert (held["protocol"], held["via"]) == ("istiod", "token")
    # Each with the kind of key that is usual with it.
    kinds = [type(key_of(each)) for each in (host, other)]
    assert issubclass(kinds[0], rsa.RSAPrivateKey)
    assert issubclass(kinds[1], ec.EllipticCurvePrivateKey)


def test_a_wrong_protocol_is_named(host: Host) -> None:
    error = error_of(host.run("renew", protocols=["istiod"]))
    assert error["code"] == "certificate-refused"
    assert "the CA does not speak the protocol of istiod" in error["message"]
    assert "unknown service istio.v1.auth.IstioCertificateService" in error["message"]
    assert error["hint"] == "ISTIO_HOSTAGENT_CA_PROTOCOL=auto tries both"


@pytest.mark.parametrize(
    ("kind", "size"),
    [("ec-p256", 256), ("ec-p384", 384), ("rsa-2048", 2048), ("rsa-3072", 3072)],
)
@pytest.mark.parametrize("is_traditional", [True, False, None])
def test_keys_are_of_the_kind_and_layout_that_is_asked_for(
    tmp_path: Path, kind: str, size: int, is_traditional: bool | None
) -> None:
    with DemoAuthority.create(tmp_path / "modern") as modern:
        host = host_of(tmp_path, modern, server_name="istiod.istio-system.svc")
        (host.output / "root-cert.pem").write_bytes(modern.root_file.read_bytes())
        host.give_token(modern.token(SUBJECT))
        changed = {"key_kind": kind, "is_key_traditional": is_traditional}
        assert held_of(host.run("renew", protocols=["istiod"], **changed))["obtained"] is True
    assert key_of(host).key_size == size
    label = f"{kind[:3].strip('-').upper()} PRIVATE KEY" if is_traditional else "PRIVATE KEY"
    assert (host.output / "key.pem").read_text().startswith(f"-----BEGIN {label}-----")


def key_of(host: Host) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key((host.output / "key.pem").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    return key


def test_of_public_roots_readers_get_the_one_that_signs(tmp_path: Path, citadel: Citadel) -> None:
    host = host_of(tmp_path, citadel, has_public_roots=True, root_file=str(tmp_path / "store"))
    others = [Citadel(tmp_path / name, name=name).root.pem for name in ("one", "two")]
    (tmp_path / "store").write_bytes(b"".join([*others, citadel.root.pem]))
    host.give_token(citadel.token(SUBJECT))
    assert held_of(host.run("renew"))["obtained"] is True
    assert (host.output / "root-cert.pem").read_bytes() == citadel.root.pem


def test_a_pair_that_has_ended_does_not_name_the_host(tmp_path: Path, citadel: Citadel) -> None:
    host = host_of(tmp_path, citadel, spiffe_id=DEFAULT, named_parts=[])
    provide(host, citadel, WEB, life_s=-60)
    host.give_token(citadel.token(SUBJECT))
    assert held_of(host.run("renew"))["identity"] == DEFAULT
    # And one for another trust domain never does: the proxy knows its peers by the configured one.
    other = host_of(tmp_path / "other", citadel, spiffe_id=DEFAULT, named_parts=[])
    provide(other, citadel, "spiffe://other.example/ns/vms/sa/web")
    other.give_token(citadel.token(SUBJECT))
    assert held_of(other.run("renew"))["identity"] == DEFAULT


def test_a_pair_that_has_ended_is_called_so_where_no_key_says_who_the_host_is(
    tmp_path: Path, citadel: Citadel
) -> None:
    host = host_of(tmp_path, citadel, spiffe_id=DEFAULT, named_parts=[])
    provide(host, citadel, WEB, life_s=-5.0)
    text = error_of(host.run("renew"))["message"]
    assert "the provisioned certificate expired on" in text
    assert "not for" not in text


def test_who_the_host_is_stays_when_the_provided_pair_is_taken_away(
    tmp_path: Path, citadel: Citadel
) -> None:
    place = tmp_path / "provisioned"
    place.mkdir()
    changed = {"spiffe_id": DEFAULT, "named_parts": [], "provisioned_dir": str(place)}
    host = host_of(tmp_path, citadel, **changed)
    chain, key = citadel.bootstrap(WEB)
    (place / "cert-chain.pem").write_bytes(chain)
    (place / "key.pem").write_bytes(key)
    (host.output / "root-cert.pem").write_bytes(citadel.root.pem)
    assert held_of(host.run("renew"))["identity"] == WEB
    for path in place.iterdir():
        path.unlink()
    assert held_of(host.run("inspect"))["identity"] == WEB
    assert held_of(host.run("renew"))["identity"] == WEB


def test_the_next_pair_is_shown_where_one_is_not_accepted(
    tmp_path: Path, citadel: Citadel
) -> None:
    place = tmp_path / "provisioned"
    place.mkdir()
    host = host_of(tmp_path, citadel, provisioned_dir=str(place))
    provide(host, citadel, WEB)
    chain, key = Citadel(tmp_path / "foreign", name="foreign").bootstrap(WEB)
    (place / "cert-chain.pem").write_bytes(chain)
    (place / "key.pem").write_bytes(key)
    assert held_of(host.run("renew"))["via"] == "provisioned"


def test_a_wrong_key_in_one_place_does_not_hide_the_right_one_in_another(
    tmp_path: Path, citadel: Citadel
) -> None:
    place = tmp_path / "provisioned"
    place.mkdir()
    host = host_of(tmp_path, citadel, provisioned_dir=str(place))
    provide(host, citadel, WEB)
    (place / "cert-chain.pem").write_bytes((host.output / "cert-chain.pem").read_bytes())
    (place / "key.pem").write_bytes((tmp_path / "ca" / "server-key.pem").read_bytes())
    assert held_of(host.run("renew"))["via"] == "provisioned"


def test_each_protocol_has_its_own_name_of_the_ca(tmp_path: Path, citadel: Citadel) -> None:
    names = ["istiod.istio-system.svc", "istio-citadel"]
    host = host_of(tmp_path, citadel, protocols=["istiod", "citadel"], server_names=names)
    host.changed["server_name"] = names[0]
    provide(host, citadel, WEB)
    assert held_of(host.run("renew"))["protocol"] == "citadel"
