"""Make the apt repository from which hosts install: `make repo`.

    /usr/bin/python3 -m tests.package.archive OUTDIR --package DEB --url URL [--keys GNUPGHOME]

OUTDIR is then what a web server at URL has to show: pool and indices for every architecture,
signed by the one secret key of GNUPGHOME, which is made where there is none; beside them the key
and a source in deb822 form. The same package and key give the same bytes: every date is that of
SOURCE_DATE_EPOCH, or of the changelog.
"""

import argparse
import email.utils
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.package import overlay

SUITE, COMPONENT = "stable", "main"
ARCHITECTURES = ("all", "amd64", "arm64")
NAME = "istio-hostagent"
KEY_FILE = f"/etc/apt/keyrings/{NAME}.asc"
SOURCE = Path(__file__).resolve().parents[2]
USER = "istio-hostagent repository"

SOURCES = """\
Types: deb
URIs: {url}
Suites: {suite}
Components: {component}
Signed-By: {key}
"""


class Keys:
    """The secret key that signs; made at `epoch` where there is none."""

    def __init__(self, home: Path, epoch: int) -> None:
        """Use the first secret key of a GNUPGHOME; raises CommandFailed."""
        self._home = home
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._find():
            make = ("--passphrase", "", "--quick-generate-key", USER, "ed25519", "sign", "never")
            self._gpg("--faked-system-time", f"{epoch}!", *make)
        ((self.fingerprint, created), *_) = self._find()
        # A signature from before its key was made is none.
        self.epoch = max(epoch, created)

    def _find(self) -> list[tuple[str, int]]:
        """Fingerprint and time of each secret key, in the words of gpg (doc/DETAILS)."""
        lines = self._gpg("--with-colons", "--list-secret-keys").splitlines()
        found = [line.split(":") for line in lines]
        keys = [int(each[5]) for each in found if each[0] == "sec"]
        prints = [each[9] for each in found if each[0] == "fpr"]
        # Of a key that has subkeys these have more, behind its own.
        return list(zip(prints, keys, strict=False))

    def export(self) -> str:
        """The public key as text."""
        return self._gpg("--armor", "--export", self.fingerprint)

    def sign(self, source: Path, target: Path) -> None:
        """Write the signed text; ed25519 signs the same text alike (RFC 8032)."""
        words = ("--yes", "--local-user", self.fingerprint, "--clearsign", "--output", str(target))
        self._gpg("--faked-system-time", f"{self.epoch}!", *words, str(source))

    def _gpg(self, *arguments: str) -> str:
        command = ["gpg", "--batch", "--quiet", "--no-emit-version", *arguments]
        return overlay.run_checked(command, env={**os.environ, "GNUPGHOME": str(self._home)})

    def close(self) -> None:
        """End the agent process that gpg leaves behind."""
        environment = {**os.environ, "GNUPGHOME": str(self._home)}
        subprocess.run(["gpgconf", "--kill", "all"], env=environment, check=False)


def make(output: Path, package: Path, url: str, keys: Keys) -> None:
    """Make the repository anew; raises CommandFailed."""
    shutil.rmtree(output, ignore_errors=True)
    pool = output / "pool" / COMPONENT / NAME[0] / NAME
    pool.mkdir(parents=True)
    shutil.copyfile(package, pool / package.name)
    dists = output / "dists" / SUITE
    index = overlay.run_checked(["apt-ftparchive", "packages", "pool"], cwd=output)
    for architecture in ARCHITECTURES:
        place = dists / COMPONENT / f"binary-{architecture}"
        place.mkdir(parents=True)
        (place / "Packages").write_text(index)
        (place / "Packages.gz").write_bytes(gzip.compress(index.encode(), mtime=0))
    (dists / "Release").write_text(render_release(dists, keys.epoch))
    keys.sign(dists / "Release", dists / "InRelease")
    (output / f"{NAME}.asc").write_text(keys.export())
    values = {"url": url, "suite": SUITE, "component": COMPONENT, "key": KEY_FILE}
    (output / f"{NAME}.sources").write_text(SOURCES.format(**values))


def render_release(dists: Path, epoch: int) -> str:
    """What is signed: the names, sizes and digests of all indices."""
    lines = [
        f"Origin: {NAME}",
        f"Label: {NAME}",
        f"Suite: {SUITE}",
        f"Codename: {SUITE}",
        f"Date: {email.utils.formatdate(epoch, usegmt=True).replace('GMT', 'UTC')}",
        f"Architectures: {' '.join(ARCHITECTURES)}",
        f"Components: {COMPONENT}",
        "SHA256:",
    ]
    for path in sorted(dists.glob(f"{COMPONENT}/*/*")):
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        lines.append(f" {digest} {len(data)} {path.relative_to(dists)}")
    return "\n".join(lines) + "\n"


def find_epoch() -> int:
    """The moment that all dates are of."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    asked = ["dpkg-parsechangelog", "-STimestamp"]
    return int(given or overlay.run_checked(asked, cwd=SOURCE).strip())


def main() -> int:
    """Make it, and print the line that user data wants."""
    parser = argparse.ArgumentParser(prog="tests.package.archive", description=__doc__)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--url", required=True, help="where a web server will show it")
    parser.add_argument("--keys", type=Path, required=True, help="a GNUPGHOME")
    given = parser.parse_args()
    try:
        keys = Keys(given.keys.resolve(), find_epoch())
        try:
            make(given.outdir, given.package, given.url, keys)
        finally:
            keys.close()
    except overlay.CommandFailed as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    sys.stdout.write(
        f"{given.outdir} is what {given.url} has to show.\n"
        f"The key of hosts, {KEY_FILE}: {given.outdir}/{NAME}.asc\n"
        f"Their source, /etc/apt/sources.list.d/{NAME}.sources: {given.outdir}/{NAME}.sources\n"
        f"In user data (docs/user-data.yaml), REPOSITORY SUITE: {given.url} {SUITE}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
