"""The certificate files that the rest of the host reads, and what is kept behind them.

    OUTPUT/key.pem -> ..data/key.pem      (cert-chain.pem and root-cert.pem alike)
    OUTPUT/..data  -> STORE/gen-000007    swapped by one rename: the three files switch together
    STORE/gen-000006                      the generation before, for readers that hold it open
    STORE/gen-000004                      one more if the writer asks for it: three at most
    STORE/provided/                       what an operator had put there, given back by `release`

Not here: what the files must contain. Rules for editing: whoever is killed between any two lines
leaves a readable pair that matches; before a name becomes a link, `..data` already shows under it
what is visible now. Runs as istio-proxy, so no planted link reaches further than that user.
"""

import contextlib
import errno
import fcntl
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import HostAgentError, HostUnsupported, KernelBusy, NotPermitted, find_remedy
from . import access, generations

_DATA = "..data"
_PROVIDED = "provided"
# Beginning with two dots, as everything that is not meant for readers of the directory.
_STAGED = "..staged"
ATTEMPTS_TO_READ = 5


@dataclass(frozen=True)
class Snapshot:
    """What lies there: as readers see it, in the generation of our own, and as provided first.

    `visible` and `stored` differ where an operator has put a file of their own in place of our
    link. `unreadable` names visible files that we may not read. `kept`: our other generations,
    the last written first; any of them may be only half there.
    """

    visible: generations.Files
    stored: generations.Files
    provided: generations.Files
    unreadable: tuple[str, ...]
    kept: tuple[generations.Files, ...] = ()


class CertificateStore:
    """The files of one output directory."""

    def __init__(self, output_dir: str, store_dir: str) -> None:
        """`store_dir` belongs to the user we run as; neither directory need exist yet."""
        self._output_dir = os.path.abspath(output_dir)
        self._store_dir = os.path.abspath(store_dir)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others from writing; raises KernelBusy if somebody else is at it."""
        with contextlib.ExitStack() as stack:
            with self._translated():
                os.makedirs(self._store_dir, exist_ok=True)
                store = stack.enter_context(generations.open_directory(self._store_dir))
            try:
                # Gone with the process, however that ends.
                fcntl.flock(store, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise KernelBusy(f"another process is writing {self._store_dir}") from error
            yield

    def read(self) -> Snapshot:
        """Read everything; what is absent is None. Raises NotPermitted, HostUnsupported."""
        stored = provided = generations.Files()
        kept: tuple[generations.Files, ...] = ()
        with self._translated():
            try:
                with generations.open_directory(self._output_dir) as output:
                    visible, unreadable = self._read_visible(output)
                    # Before the first certificate there is no store.
                    with (
                        contextlib.suppress(FileNotFoundError),
                        generations.open_directory(self._store_dir) as store,
                    ):
                        current = self._current(output)
                        if current:
                            stored = generations.read_generation(store, current)
                        provided = self._read_provided(output, store)
                        kept = _read_kept(store, current)
            except FileNotFoundError:
                # Gone, as after each boot where it lies in memory; the store is still there.
                visible, unreadable = generations.Files(), ()
                with (
                    contextlib.suppress(FileNotFoundError),
                    generations.open_directory(self._store_dir) as store,
                ):
                    kept = _read_kept(store, None)
        paths = tuple(os.path.join(self._output_dir, name) for name in unreadable)
        return Snapshot(visible, stored, provided, paths, kept)

    def install(self, files: generations.Files, *, spared: str = "") -> None:
        """Make `files` what every reader sees, all at once; keep what an operator had put there.

        Of our generations these stay: the new one, the one before, and `spared`, a name. All
        others go, also what a killed writer left.
        Raises NotPermitted or HostUnsupported: then readers see what they saw before.
        """
        with self._opened() as (output, store):
            self._own_names(output, store)
            self._switch(output, store, generations.write_generation(store, files), spared)

    def show(self, name: str, *, spared: str = "") -> None:
        """Make a generation that is still there what every reader sees; else as `install`."""
        with self._opened() as (output, store):
            generations.sync_generation(store, name)
            self._own_names(output, store)
            self._switch(output, store, name, spared)

    def release(self) -> None:
        """Give back what was provided and remove everything of ours; raises as `install` does."""
        with self._opened() as (output, store):
            provided = self._read_provided(output, store)
            links = _provided_links(store)
            if self._current(output) is not None:
                self._point_at(output, store, generations.write_generation(store, provided))
            content = dict(provided.content())
            for name in generations.NAMES:
                if not _is_linked(output, name):
                    continue
                if name in links:
                    self._place_link(output, store, name, links[name])
                elif name in content:
                    _replace_file(output, name, content[name])
                else:
                    os.unlink(name, dir_fd=output)
            if self._current(output) is not None:
                os.unlink(_DATA, dir_fd=output)
            os.fsync(output)
            generations.remove_generations(store, kept=frozenset())
            generations.remove_generation(store, _PROVIDED)
            os.fsync(store)

    def _read_visible(self, output: int) -> tuple[generations.Files, tuple[str, ...]]:
        """Read what a reader of the names sees, of one generation; name what we may not read."""
        for _ in range(ATTEMPTS_TO_READ):
            before = self._current(output)
            seen = _read_names(output)
            if self._current(output) == before:
                return seen
        raise KernelBusy(f"{self._output_dir} is changing all the time")

    def _read_provided(self, output: int, store: int) -> generations.Files:
        try:
            with generations.open_directory(_PROVIDED, within=store) as provided:
                files = generations.read_files(provided)
        except OSError:
            return generations.Files()
        followed: dict[str, bytes | None] = dict(files.content())
        for name, target in _provided_links(store).items():
            followed[name] = None
            with contextlib.suppress(OSError):
                followed[name], _ = generations.read_file(
                    target, within=output, is_link_followed=True
                )
        key, chain, root = (followed.get(name) for name in generations.NAMES)
        return generations.Files(key, chain, root, files.received)

    def _own_names(self, output: int, store: int) -> None:
        """See to it that the three names are our links, so that one switch changes them all."""
        if self._current(output) is None or not all(
            _is_linked(output, name) for name in generations.NAMES
        ):
            self._take_over(output, store)

    def _switch(self, output: int, store: int, name: str, spared: str) -> None:
        previous = self._current(output)
        self._point_at(output, store, name)
        kept = frozenset(each for each in (name, previous, spared) if each)
        generations.remove_generations(store, kept=kept)

    def _take_over(self, output: int, store: int) -> None:
        """Turn whatever is there into links, without a change that a reader could notice."""
        visible, unreadable = self._read_visible(output)
        if unreadable:
            path = os.path.join(self._output_dir, unreadable[0])
            raise NotPermitted(
                f"{path} cannot be kept: we may not read it",
                hint="give it to the user istio-proxy, or move it away",
            )
        self._keep_provided(output, store, visible)
        self._point_at(output, store, generations.write_generation(store, visible))
        for name in generations.NAMES:
            if not _is_linked(output, name):
                self._place_link(output, store, name, f"{_DATA}/{name}")
        os.fsync(output)

    def _keep_provided(self, output: int, store: int, visible: generations.Files) -> None:
        content = dict(visible.content())
        with contextlib.suppress(FileExistsError):
            os.mkdir(_PROVIDED, 0o700, dir_fd=store)
        with generations.open_directory(_PROVIDED, within=store) as provided:
            for name in generations.NAMES:
                link = _read_link(output, name)
                _remove_if_there(provided, _STAGED)
                if link is None and name in content:
                    mode = generations.MODES[name]
                    generations.write_file(_STAGED, content[name], mode, within=provided)
                elif link is not None and not link.startswith(f"{_DATA}/"):
                    os.symlink(link, _STAGED, dir_fd=provided)
                else:
                    continue
                os.rename(_STAGED, name, src_dir_fd=provided, dst_dir_fd=provided)
            os.fsync(provided)

    def _current(self, output: int) -> str | None:
        """The generation that is pointed at, None if it is not one of ours."""
        directory, _, name = (_read_link(output, _DATA) or "").rpartition("/")
        return name if directory == self._store_dir and generations.is_generation(name) else None

    def _point_at(self, output: int, store: int, generation: str) -> None:
        self._place_link(output, store, _DATA, f"{self._store_dir}/{generation}")
        os.fsync(output)

    def _place_link(self, output: int, store: int, name: str, target: str) -> None:
        """Put a link in place by one rename, staged outside the watched directory if possible."""
        for directory in (store, output):
            _remove_if_there(directory, _STAGED)
            os.symlink(target, _STAGED, dir_fd=directory)
            try:
                os.rename(_STAGED, name, src_dir_fd=directory, dst_dir_fd=output)
            except OSError as error:
                _remove_if_there(directory, _STAGED)
                # Another file system, or the same one mounted twice, as in a unit's sandbox.
                if error.errno != errno.EXDEV or directory == output:
                    raise
            else:
                return

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[int, int]]:
        with self._translated():
            os.makedirs(self._output_dir, exist_ok=True)
            os.makedirs(self._store_dir, exist_ok=True)
            with (
                generations.open_directory(self._output_dir) as output,
                generations.open_directory(self._store_dir) as store,
            ):
                yield output, store

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind: type[HostAgentError] = HostUnsupported
            hint = find_remedy(None, os.strerror(error.errno or 0))
            if error.errno in (errno.EACCES, errno.EPERM):
                kind = NotPermitted
                command = "chown" if os.path.isdir(self._output_dir) else "install -d -o"
                place = shlex.quote(self._output_dir)
                hint = f"they are written by istio-proxy: {command} istio-proxy {place}"
                closed = access.find_closed(self._output_dir) or access.find_closed(
                    self._store_dir
                )
                if closed:
                    hint = f"they are written by istio-proxy, to whom {closed} is closed:"
                    hint += f" chmod o+x {shlex.quote(closed)}"
            elif error.errno == errno.EROFS:
                kind = NotPermitted
                hint += ", or another directory in OUTPUT_CERTS of"
                hint += " /etc/istio-hostagent/hostagent.env"
            message = f"certificate files in {self._output_dir} and {self._store_dir}: {error}"
            raise kind(message, hint=hint) from error


def _read_kept(store: int, current: str | None) -> tuple[generations.Files, ...]:
    names = [each for each in generations.list_generations(store) if each != current]
    found = [generations.read_generation(store, name) for name in names]
    return tuple(files for files in found if files.content())


def _read_names(output: int) -> tuple[generations.Files, tuple[str, ...]]:
    found: dict[str, bytes] = {}
    unreadable: list[str] = []
    received = 0.0
    for name in generations.NAMES:
        try:
            found[name], written = generations.read_file(
                name, within=output, is_link_followed=True
            )
        except PermissionError:
            unreadable.append(name)
        except OSError:
            continue
        else:
            received = written if name == generations.CHAIN else received
    key, chain, root = (found.get(name) for name in generations.NAMES)
    return generations.Files(key, chain, root, received), tuple(unreadable)


def _provided_links(store: int) -> dict[str, str]:
    links = {}
    with (
        contextlib.suppress(OSError),
        generations.open_directory(_PROVIDED, within=store) as provided,
    ):
        for name in generations.NAMES:
            target = _read_link(provided, name)
            if target is not None:
                links[name] = target
    return links


def _is_linked(output: int, name: str) -> bool:
    return _read_link(output, name) == f"{_DATA}/{name}"


def _read_link(directory: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None


def _remove_if_there(directory: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _replace_file(output: int, name: str, data: bytes) -> None:
    _remove_if_there(output, _STAGED)
    generations.write_file(_STAGED, data, generations.MODES[name], within=output)
    os.rename(_STAGED, name, src_dir_fd=output, dst_dir_fd=output)
