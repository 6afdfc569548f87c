"""What lies on the disks of a host, in memory: the state directory, texts, certificates."""

import base64
import errno
import itertools
import json
import os
from collections.abc import Callable, Collection, Sequence

from istio_hostagent.config import model
from istio_hostagent.errors import Problem
from istio_hostagent.host import layers, processes
from istio_hostagent.host.answers import looker
from istio_hostagent.supervise import builds


def missing(name: str) -> OSError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def full(name: str) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)


class Disk:
    """Files by path, with the number of the write that made each; it may be full."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.written: dict[str, int] = {}
        self.is_full = False
        self._writes = itertools.count(1)

    def write(self, path: str, data: bytes) -> None:
        """From outside: never refused."""
        self.files[path] = data
        self.written[path] = next(self._writes)

    def remove(self, path: str) -> bool:
        self.written.pop(path, None)
        return self.files.pop(path, None) is not None

    def fingerprint(self, path: str) -> int | None:
        return self.written.get(path)


class FakeStateFiles:
    """The state directory of one host; `step` is called before something is changed."""

    def __init__(
        self, disk: Disk, directory: str = "/state", step: Callable[[], None] = lambda: None
    ) -> None:
        self.directory = directory
        self._disk = disk
        self._step = step

    def _path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def has(self, name: str) -> bool:
        return self._path(name) in self._disk.files

    def read(self, name: str, most: int) -> bytes:
        if not self.has(name):
            raise missing(name)
        return self._disk.files[self._path(name)][:most]

    def make_own(self, name: str, owner: tuple[int, int]) -> None:
        self._step()
        if self._disk.is_full:
            raise full(name)

    def write(self, name: str, data: bytes, *, mode: int) -> None:
        self._step()
        if self._disk.is_full:
            raise full(name)
        self._disk.write(self._path(name), data)

    def remove(self, name: str) -> bool:
        self._step()
        return self._disk.remove(self._path(name))


class FakeEnvironmentFiles:
    """The environment files; `unreadable` names those that cannot be read.

    All are root's but those of `foreign`, which a worker has to read (`read_foreign`).
    """

    def __init__(
        self, disk: Disk, unreadable: Collection[str], foreign: Collection[str] = ()
    ) -> None:
        self._disk = disk
        self._unreadable = unreadable
        self._foreign = foreign

    def begin(self, paths: Sequence[str], reader: processes.User) -> layers.Begun:
        trust = model.Trust(is_root_only=True)
        foreign = {
            path: model.Trust(is_root_only=False, detail="its directory is istio-proxy's")
            for path in paths
            if path in self._foreign
        }
        paths, every = [path for path in paths if path not in foreign], paths
        readable = [path for path in paths if path not in self._unreadable]
        read = {path: model.Layer(path, self._disk.files.get(path), trust) for path in readable}
        problems = (path for path in paths if path in self._unreadable)
        text = "cannot be read: Input/output error"
        return layers.Begun(
            paths=tuple(every),
            layers=read,
            problems=tuple(Problem(path, 0, text) for path in problems),
            foreign=foreign,
            reader="istio-proxy",
        )


def read_foreign(disk: Disk, unreadable: Collection[str], paths: Sequence[str]) -> bytes:
    """What the worker answers that reads files which others than root can change."""
    answer: list[dict[str, object]] = []
    for path in paths:
        data = disk.files.get(path)
        if path in unreadable:
            answer.append({"errno": errno.EIO})
        elif data is None:
            answer.append({"errno": errno.ENOENT})
        else:
            answer.append({"data": base64.b64encode(data).decode()})
    return json.dumps(answer).encode()


class FakeSights:
    """What others have seen of the files of a host that lie where nobody must wait."""

    def __init__(self, remote: Collection[str] = ()) -> None:
        self._remote = remote
        self._seen: dict[str, looker.Sight | None] = {}

    def ask(self, path: str) -> looker.Sight | None:
        """A part wants to know how a file looks."""
        return self._seen.setdefault(path, None) if path in self._remote else None

    @property
    def is_behind(self) -> bool:
        return None in self._seen.values()

    def remote(self) -> tuple[str, ...]:
        return tuple(self._seen)

    def take(self, paths: Sequence[str], found: Sequence[looker.Sight]) -> bool:
        told = dict(zip(paths, found, strict=True))
        changed = {path: told[path] for path in self._seen.keys() & told.keys()}
        changed = {path: sight for path, sight in changed.items() if self._seen[path] != sight}
        self._seen |= changed
        return bool(changed)


class FakeCertificateFiles:
    """What root sees of certificates and credentials, and the stores that it makes."""

    NAMES = ("key.pem", "cert-chain.pem", "root-cert.pem", "..data")

    def __init__(
        self, disk: Disk, stores: dict[str, str], step: Callable[[], None] = lambda: None
    ) -> None:
        """`stores`: the directory of OUTPUT_CERTS of each store."""
        self._disk = disk
        self._stores = stores
        self._step = step

    def keep_out(self, output_dir: str) -> None:
        pass

    def fingerprint(self, path: str) -> object:
        return self._disk.fingerprint(path)

    def has_key(self, output_dir: str) -> bool:
        return f"{output_dir}/key.pem" in self._disk.files

    def watched(self, output_dir: str) -> tuple[str, ...]:
        return tuple(f"{output_dir}/{name}" for name in self.NAMES)

    def look(self, output_dir: str) -> tuple[object, ...]:
        return tuple(map(self._disk.fingerprint, self.watched(output_dir)))

    def make_store(self, output_dir: str, owner: processes.User) -> str:
        self._step()
        store = f"/state/certs{output_dir.replace('/', '-')}"
        if self._disk.is_full and store not in self._stores:
            raise full(store)
        self._stores[store] = output_dir
        return store

    def find_stores(self) -> tuple[tuple[str, str], ...]:
        if not self._stores:
            raise missing("/state/certs")
        return tuple(self._stores.items())

    def remove_store(self, store: str) -> None:
        self._step()
        if store not in self._stores:
            raise missing(store)
        del self._stores[store]


class FakeProxyFiles:
    """The files of proxies and the programs of a host."""

    directory = "/run/proxy"

    def __init__(
        self, disk: Disk, programs: Collection[str], step: Callable[[], None] = lambda: None
    ) -> None:
        self._disk = disk
        self._programs = programs
        self._step = step

    def is_program(self, path: str) -> bool:
        return path in self._programs

    def is_known(self, path: str) -> bool:
        return True

    def fingerprint(self, path: str) -> tuple[int, ...]:
        found = self._disk.fingerprint(path)
        return () if found is None else (found,)

    def lead_to(self, place: str) -> None:
        pass

    def write(self, built: builds.Build) -> None:
        for name, text in built.texts.items():
            self._step()
            if self._disk.is_full:
                raise full(name)
            self._disk.write(f"{built.directory}/{name}", text.encode())

    def make_own_directory(self, relative: str) -> None:
        self._step()
        if self._disk.is_full:
            raise full(relative)

    def remove_others(self, kept: Collection[builds.Build]) -> None:
        self._step()
        used = tuple(f"{built.directory}/" for built in kept)
        prefix = f"{self.directory}/{builds.ENVOY_PREFIX}"
        for path in list(self._disk.files):
            if path.startswith(prefix) and not path.startswith(used):
                self._disk.remove(path)
