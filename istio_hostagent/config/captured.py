"""What is captured, in short texts for people; the rules themselves say it in full.

Not here: whether it is encrypted (`encryption`), and whether the rules are in.
"""

from . import model

_MOST = 4  # networks or ranges of ports are named, of more the number


def describe(settings: model.Redirection | None) -> dict[str, str]:
    """Give `inbound`, `outbound` and `mode`; empty texts where nothing is captured."""
    if settings is None or not settings.is_managed:
        return {"inbound": "", "outbound": "", "mode": ""}
    mode = "TPROXY" if settings.is_transparent else "REDIRECT"
    return {"inbound": _inbound(settings), "outbound": _outbound(settings), "mode": mode}


def _inbound(settings: model.Redirection) -> str:
    if not settings.inbound:
        return ""
    text = f"{_ports(settings.inbound)} to {settings.inbound_capture_port}"
    return text + _except(_ports(settings.inbound_exclude))


def _outbound(settings: model.Redirection) -> str:
    found = [_networks(settings.outbound)] if settings.outbound else []
    if settings.outbound_ports:
        found.append(_ports(settings.outbound_ports))
    texts = []
    if found and settings.captures_outbound:
        text = f"{' and '.join(found)} to {settings.outbound_capture_port}"
        left = [_networks(settings.outbound_exclude), _ports(settings.outbound_ports_exclude)]
        texts.append(text + _except(" and ".join(filter(None, left))))
    if settings.dns.is_captured:
        whose = "every server" if settings.dns.is_every_server else "the servers of this host"
        texts.append(f"queries for names at {whose} to {settings.dns.port}")
    return "; ".join(texts)


def _except(text: str) -> str:
    return f" (but {text})" if text else ""


def _ports(found: model.PortSet) -> str:
    if found.is_all:
        return "all ports"
    texts = [f"{first}" if first == last else f"{first}-{last}" for first, last in found.ranges]
    if not texts:
        return ""
    is_one = len(texts) == 1 and "-" not in texts[0]
    return f"port{'' if is_one else 's'} {_shortened(texts, len(texts))}"


def _networks(found: model.CidrSet) -> str:
    if found.is_all:
        return "all addresses"
    texts: list[str] = []
    for version in (4, 6):
        for first, last in found.of_version(version):
            if len(texts) == _MOST:
                break
            texts.append(str(model.to_network(version, first, last)))
    return _shortened(texts, len(found.v4) + len(found.v6))


def _shortened(texts: list[str], count: int) -> str:
    more = f" and {count - _MOST} more" if count > _MOST else ""
    return ", ".join(texts[:_MOST]) + more
