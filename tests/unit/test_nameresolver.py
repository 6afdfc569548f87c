"""The servers of resolved.conf, as dnsmasq is told of them."""

from istio_hostagent.host import nameresolver


def test_servers_of_all_forms_in_the_order_of_the_files() -> None:
    text = """\
# /etc/systemd/resolved.conf
[Resolve]
#DNS=1.1.1.1
DNS=192.0.2.1
# /etc/systemd/resolved.conf.d/a.conf
[Resolve]
DNS=
DNS=192.0.2.2 192.0.2.3:5353#dns.example 2001:db8::1%eth0
FallbackDNS=192.0.2.9
DNS = [2001:db8::2]:53 [2001:db8::3]
"""
    assert nameresolver.find_servers(text) == [
        "192.0.2.2",
        "192.0.2.3#5353",
        "2001:db8::1",
        "2001:db8::2#53",
        "2001:db8::3",
    ]
