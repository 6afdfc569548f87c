"""A small certificate authority that speaks istiod's protocol. FOR DEMONSTRATION AND TESTS ONLY.

No part of the product and nothing to run in earnest: its keys lie in plain files. It serves
`istio.v1.auth.IstioCertificateService/CreateCertificate` over gRPC, HTTP/2 and TLS 1.2 or later,
takes a token or a client certificate, and answers, refuses and fails as a measured istiod 1.30
does.

    python -m tests.demo.ca init  --dir DIR [--trust-domain T] [--name N]...
    python -m tests.demo.ca serve --dir DIR --listen ADDR:PORT [--max-ttl S] [--log FILE]
    python -m tests.demo.ca token --dir DIR --sub system:serviceaccount:NS:SA [--ttl S]

Tests use DemoAuthority in their own process, with switches for every failure (see Mode). The
parts: ca_server (the running server), ca_http2 (gRPC over HTTP/2), ca_wire (messages), ca_policy
(answers), ca_token (tokens), ca_material (keys, certificates, files). One difference to istiod
that a client sees: a client certificate of a foreign trust domain or without exactly one URI name
ends the connection after the handshake, without an alert.
"""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from . import ca_material, ca_policy, ca_token
from .ca_policy import Mode
from .ca_server import DemoAuthority, Seen

__all__ = ["DemoAuthority", "Mode", "Seen", "main"]

LABEL = "demo certificate authority, not for production"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return the exit status."""
    options = _parser().parse_args(arguments)
    if options.command == "init":
        ca_material.create(
            options.dir,
            options.trust_domain,
            names=options.name,
            token_algorithm=options.token_algorithm,
        )
        print(f"{LABEL}: root in {options.dir}/root-cert.pem")
        return 0
    if options.command == "token":
        material = ca_material.load(options.dir)
        audiences = options.aud or [ca_token.AUDIENCE]
        key, now = material.token_key, time.time()
        print(ca_token.mint(key, options.sub, now=now, ttl_s=options.ttl, audiences=audiences))
        return 0
    return _serve(options)


def _serve(options: argparse.Namespace) -> int:
    # Blocked before any thread exists, so that every thread leaves them to sigwait below.
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    host, _, port = options.listen.rpartition(":")
    settings = ca_policy.Settings(
        mode=options.mode, life_s=options.life, skew_s=options.skew, max_ttl_s=options.max_ttl
    )
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(options.log.open("a")) if options.log else sys.stderr
        authority = DemoAuthority(
            options.dir,
            host=host.strip("[]"),
            port=int(port),
            settings=settings,
            log=lambda line: _log(out, line),
        )
        _log(out, LABEL)
        with authority:
            print(f"listening {authority.address}", flush=True)
            signal.sigwait(stops)
    return 0


def _log(out: TextIO, line: str) -> None:
    stamp = time.strftime("%H:%M:%S")
    out.write(f"{stamp} {line}\n")
    out.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.demo.ca", description=f"A {LABEL}.")
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="make keys and certificates")
    init.add_argument("--trust-domain", default="cluster.local")
    init.add_argument("--name", action="append", default=[], help="further server name or address")
    init.add_argument("--token-algorithm", choices=("ES256", "RS256"), default="ES256")
    serve = commands.add_parser("serve", help="serve until SIGTERM")
    serve.add_argument("--listen", required=True, metavar="ADDR:PORT", help="port 0: any free one")
    serve.add_argument("--max-ttl", type=int, default=ca_policy.MAX_TTL_S, metavar="S")
    serve.add_argument("--life", type=float, metavar="S", help="life of all, whatever is asked")
    serve.add_argument("--skew", type=float, default=0.0, metavar="S", help="its clock is ahead")
    serve.add_argument("--mode", type=Mode, choices=list(Mode), default=Mode.OK)
    serve.add_argument("--log", type=Path, metavar="FILE", help="default: standard error")
    token = commands.add_parser("token", help="print a bootstrap token")
    token.add_argument("--sub", required=True, help="system:serviceaccount:NAMESPACE:ACCOUNT")
    token.add_argument("--ttl", type=float, default=3600.0, metavar="S")
    token.add_argument("--aud", action="append", help=f"default: {ca_token.AUDIENCE}")
    for command in (init, serve, token):
        command.add_argument("--dir", type=Path, required=True, help="keys and certificates")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
