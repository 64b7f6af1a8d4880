"""Makes a Debian base image and puts it into the store: the steps in their order, each done by the module beside this one.

1. Which suite the tag means (`suites`), and whether this state of it was bootstrapped before.
2. The signed Release file, then the list of packages that it promises (`download`, `release`, `packages`).
3. Every package, verified and decompressed on several threads; those which dpkg itself needs become the seed tree (`debfile`).
4. dpkg installs everything in a container whose root is that tree and which has no network (`recipe`).
5. The tree becomes one canonical layer with the archive's date as its latest time.

The digest depends on the archive's state, the architecture and contain's recipe; not on the mirror, the host or the hour.
"""

from __future__ import annotations

import calendar
import os
import platform
import re
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

from contain import configuration
from contain.annotations import TYPE_CHECKING
from contain.build.bases import ProvidedBase
from contain.build.debian.debfile import decompress, merged_directories, plain_deb, read_deb, write_seed
from contain.build.debian.download import CONNECTIONS, Amounts, ArchiveClient
from contain.build.debian.mirror import (
    choose_mirrors,
    parse_debian_snapshots,
    parse_debian_table,
    read_host_proxies,
    read_host_sources,
    snapshot_mirrors,
)
from contain.build.debian.packages import EXTRA_PACKAGES, PREFERRED, Package, Selection, parse_packages, select_packages
from contain.build.debian.recipe import (
    ENVIRONMENT_PATH,
    FILES_NAME,
    FIRST_NAME,
    FIRST_PACKAGES,
    PACKAGES_PLACE,
    REST_NAME,
    SCRIPT_NAME,
    AddedFile,
    added_files,
    bootstrap_environment,
    render_script,
)
from contain.build.debian.release import (
    Release,
    check_release,
    find_package_index,
    parse_release,
    read_host_keyring,
    shipped_keys,
    verify_inrelease,
)
from contain.build.debian.suites import RELEASES, WantedSuite, debian_architecture, resolve_suite
from contain.errors import BuildStepFailed, HostError, IntegrityError, NotFound, RegistryError
from contain.linux.usernamespace import MORE_IDS
from contain.oci import Descriptor, History, Image, ImageConfig, Platform, canonical_json, digest_of, is_digest
from contain.oci.image import MEDIA_LAYER
from contain.paths import HostPath
from contain.progress import Progress
from contain.reference import Reference
from contain.spec import Bind, ContainerSpec, Identity, Limits, Network
from contain.store.durable import explained
from contain.values import dataclass, replace

if TYPE_CHECKING:
    from contain.store import Store

SOURCE = "bootstrapped from a Debian archive"
_STATE = re.compile(r"Release file of (?P<date>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ), (?P<digest>sha256:[0-9a-f]{64})\Z")
_LOG_TAIL_LINES = 40
_LEAST_USERS = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapPlan:
    """Everything that a bootstrap's result depends on, apart from the packages that ``release`` promises."""

    release: Release
    architecture: str
    merged: tuple[str, ...]
    files: tuple[AddedFile, ...]
    script: str

    @property
    def key(self) -> str:
        """The digest of these inputs: the same key, the same image."""
        return digest_of(
            canonical_json(
                {
                    "release": self.release.digest,
                    "architecture": self.architecture,
                    "merged": self.merged,
                    "files": [[file.path, file.mode, file.text] for file in self.files],
                    "script": self.script,
                    "environment": bootstrap_environment(self.release.date_seconds),
                    "packages": [EXTRA_PACKAGES, PREFERRED],
                }
            )
        )


def refuse_one_owner(uid_map: str, *, name: str) -> None:
    """Raise `HostError` (``owner-needs-root``) in a user namespace of few users (user_namespaces(7)): packages have files of several.

    Said before anything is downloaded.
    """
    users = sum(int(line.split()[2]) for line in uid_map.splitlines() if line.strip())
    if users < _LEAST_USERS:
        raise HostError(
            f"{name} is put together from packages, whose files have several owners, and an ordinary user can make those of one only",
            code="owner-needs-root",
            remedy=f"{MORE_IDS}; or as root: contain pull {name} && contain save -o base.tar {name}; then: contain load -i base.tar",
        )


def provide_debian_base(
    reference: Reference,
    *,
    store: Store,
    progress: Progress,
    mirror: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> ProvidedBase | None:
    """The image that ``debian:TAG`` means, made from a Debian archive and tagged in the store; None for any other reference.

    ``mirror`` is the archive's address; None: the configuration's, else those that `choose_mirrors` finds. Raises `NotFound`
    (``no-such-debian``), `NotSupported` (``no-such-architecture``), `RegistryError` (``debian-mirror-unreachable``,
    ``debian-mirror-refused``), `IntegrityError` (``debian-*``), `BuildStepFailed`, `HostError`. Two processes that want the same
    suite at once make it once.
    """
    wanted = resolve_suite(reference)
    if wanted is None:
        return None
    architecture = debian_architecture(platform.machine())
    environ = os.environ if environ is None else environ
    with explained(store.home), store.lock(f"debian-{wanted.suite}-{architecture}"):
        known = store.name_source(reference)
        if known is not None and known[1] == SOURCE:  # another process made it while this one waited for the lock
            return ProvidedBase(image=store.image(known[0]), source=SOURCE)
        refuse_one_owner(HostPath("/proc/self/uid_map").read_text(), name=reference.familiar)
        client = _open_client(store, mirror=mirror, environ=environ, progress=progress)
        try:
            plan = _plan(client, wanted, architecture)
            release = plan.release
            progress.note(f"{reference.familiar}: {_describe(release)}, from {client.mirror}")
            image = _make(plan, wanted, store=store, client=client, progress=progress)
        finally:
            client.close()
        store.tag(reference, image.digest, source=SOURCE)
    return ProvidedBase(image=image, source=SOURCE)


def provide_debian_state(
    reference: Reference,
    state: str,
    *,
    store: Store,
    progress: Progress,
    mirror: str | None = None,
    snapshots: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Image | None:
    """The image of an earlier state of the archive, from a mirror that still has it, else from an archive of states.

    ``state``: the comment that a bootstrapped image's history has, with the Release file's date and digest. ``mirror`` and
    ``snapshots``: None for those of the configuration. None if ``state`` says nothing, or if no place has that state. Gives no name to
    the image. Raises what `provide_debian_base` raises once the state is found.
    """
    wanted, stated = resolve_suite(reference), _STATE.search(state)
    if wanted is None or stated is None:
        return None
    architecture = debian_architecture(platform.machine())
    environ = os.environ if environ is None else environ
    table = configuration.read_tables().get("debian", {})
    configured = mirror or parse_debian_table(table)
    date_seconds = calendar.timegm(time.strptime(stated["date"], "%Y-%m-%dT%H:%M:%SZ"))
    address = parse_debian_snapshots(table) if snapshots is None else snapshots
    mirrors = choose_mirrors(configured, () if configured else read_host_sources())[:1]
    with explained(store.home), store.lock(f"debian-{wanted.suite}-{architecture}"):
        for place in (*mirrors, *snapshot_mirrors(address, date_seconds)):
            client = ArchiveClient(
                (place,), store.home / "debian", environ=environ, proxies=read_host_proxies(), progress=progress
            )
            try:
                try:
                    plan = _plan(client, wanted, architecture)
                except (NotFound, RegistryError, IntegrityError) as error:
                    progress.note(f"{place}: {error.message}")
                    if isinstance(error, RegistryError) and place not in mirrors:
                        return None  # the others are the same server
                    continue
                if plan.release.digest == stated["digest"]:
                    progress.note(f"{reference.familiar}: {_describe(plan.release)}, from {place}")
                    return _make(plan, wanted, store=store, client=client, progress=progress)
            finally:
                client.close()
    return None


def _make(plan: BootstrapPlan, wanted: WantedSuite, *, store: Store, client: ArchiveClient, progress: Progress) -> Image:
    """The image of a state of the archive: made before, or now."""
    record = store.home / "debian" / f"made-{plan.key.removeprefix('sha256:')}"
    image = _read_made(store, record) or _bootstrap(plan, wanted, store=store, client=client, progress=progress)
    _write_made(record, image)
    return image


def _open_client(store: Store, *, mirror: str | None, environ: Mapping[str, str], progress: Progress) -> ArchiveClient:
    configured = mirror or parse_debian_table(configuration.read_tables().get("debian", {}))
    mirrors = choose_mirrors(configured, () if configured else read_host_sources())
    return ArchiveClient(mirrors, store.home / "debian", environ=environ, proxies=read_host_proxies(), progress=progress)


def _plan(client: ArchiveClient, wanted: WantedSuite, architecture: str) -> BootstrapPlan:
    signed = verify_inrelease(client.read_inrelease(wanted.suite), [*shipped_keys(), *read_host_keyring()])
    release = parse_release(signed)
    check_release(release, suite=wanted.suite, point_release=wanted.point_release, now_seconds=time.time())
    facts = RELEASES.get(release.codename)
    if facts is None:
        raise NotFound(
            f"the archive's {wanted.suite} is {release.codename}, which this version of contain does not know",
            code="no-such-debian",
            remedy=f"name one that it knows: {', '.join(RELEASES)}",
        )
    files = added_files(facts)
    return BootstrapPlan(
        release=release,
        architecture=architecture,
        merged=merged_directories(architecture) if facts.merged_usr else (),
        files=files,
        script=render_script(files, epoch_seconds=release.date_seconds),
    )


def _describe(release: Release) -> str:
    date = time.strftime("%Y-%m-%d", time.gmtime(release.date_seconds))
    return f"Debian {release.version} ({release.codename}), the archive's state of {date}"


def _read_made(store: Store, record: HostPath) -> Image | None:
    """The image that an earlier bootstrap with the same inputs made, if the store still has it."""
    try:
        digest = record.read_text().strip()
        return store.image(digest) if is_digest(digest) else None
    except (OSError, NotFound):
        return None


def _write_made(record: HostPath, image: Image) -> None:
    record.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    record.write_text(image.digest + "\n")  # under the lock; a crash in the middle leaves what `_read_made` does not take


def _bootstrap(plan: BootstrapPlan, wanted: WantedSuite, *, store: Store, client: ArchiveClient, progress: Progress) -> Image:
    index_file = find_package_index(plan.release, plan.architecture)
    directory, _, _ = index_file.path.rpartition("/")
    paths = [f"dists/{wanted.suite}/{index_file.path}"]
    if plan.release.acquire_by_hash:  # a mirror that is being updated still has the file that our Release file means
        paths.insert(0, f"dists/{wanted.suite}/{directory}/by-hash/SHA256/{index_file.sha256}")
    amounts = Amounts(progress, "list of packages", index_file.size_bytes)
    packed = client.promised(paths, sha256=index_file.sha256, size_bytes=index_file.size_bytes, amounts=amounts)
    selection = select_packages(parse_packages(decompress(index_file.path, packed)))
    with store.scratch("debian") as scratch:
        tree, handed_in = scratch / "tree", scratch / "in"
        for place in (tree, handed_in, handed_in / FIRST_NAME, handed_in / REST_NAME):
            place.mkdir()
            place.chmod(0o755)  # whatever the umask: the tree's own mode is part of the layer
        data = _fetch_packages(selection, handed_in, client=client, progress=progress)
        _extract_seed(plan, selection, data, scratch / "seed.tar", tree)
        _write_files(plan, handed_in)
        progress.note(f"installing {len(selection.packages)} packages")
        _install(plan, tree=tree, handed_in=handed_in, log=scratch / "log", home=store.home)
        layer = store.commit_layer(tree, lower=(), epoch_seconds=plan.release.date_seconds)
    assert layer is not None  # the tree is not empty
    descriptor = Descriptor(media_type=MEDIA_LAYER, digest=layer.diff_id, size=layer.size_bytes)
    return store.put_image(_config(plan, layer.diff_id), (descriptor,), source=SOURCE)


def _fetch_packages(
    selection: Selection, handed_in: HostPath, *, client: ArchiveClient, progress: Progress
) -> dict[str, bytes]:
    """Every package into ``handed_in``, decompressed; returns the data tars of the seed's packages by name."""
    amounts = Amounts(progress, "packages", sum(package.size_bytes for package in selection.packages))

    def fetch(package: Package) -> bytes:
        packed = client.promised([package.path], sha256=package.sha256, size_bytes=package.size_bytes, amounts=amounts)
        contents = read_deb(packed)
        place = handed_in / (FIRST_NAME if package.name in FIRST_PACKAGES else REST_NAME) / f"{package.name}.deb"
        with place.open("wb") as file:
            file.writelines(plain_deb(contents))
        place.chmod(0o644)
        return contents.data if package.name in selection.seed else b""

    # Threads serve both halves of the work: waiting for the mirror, and lzma, which lets go of the interpreter's lock.
    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        # The largest first, so that no thread is left alone with one at the end.
        order = sorted(selection.packages, key=lambda package: package.size_bytes, reverse=True)
        tars = dict(zip((package.name for package in order), pool.map(fetch, order), strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    return {name: tars[name] for name in selection.seed}


def _extract_seed(
    plan: BootstrapPlan, selection: Selection, data: Mapping[str, bytes], archive: HostPath, tree: HostPath
) -> None:
    from contain.store import TarLimits, extract_tree

    # base-files first: it says what mode the directories have that other packages mention too.
    order = ["base-files", *sorted(selection.seed - {"base-files"})]
    with archive.open("wb") as file:
        write_seed((data[name] for name in order), plan.merged, file)
    with archive.open("rb") as file:
        extract_tree(file.read, tree, limits=TarLimits(), whiteouts=False, require_end=True)
    archive.unlink()


def _write_files(plan: BootstrapPlan, handed_in: HostPath) -> None:
    for file in plan.files:
        place = handed_in / FILES_NAME / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(file.text)
    (handed_in / SCRIPT_NAME).write_text(plan.script)


def _install(plan: BootstrapPlan, *, tree: HostPath, handed_in: HostPath, log: HostPath, home: HostPath) -> None:
    from contain.build.run.open_mounts import remove_stubs
    from contain.container.plan import stub_paths
    from contain.container.run import new_container_id, run
    from contain.container.storage import Storage, storage_for
    from contain.linux.capabilities import DEFAULT_CAPABILITIES

    identifier = new_container_id()
    spec = ContainerSpec(
        container_id=identifier,
        name=f"debian-{identifier[:12]}",
        image_digest="",
        image_name="",
        layers=(),
        upper=tree,
        arguments=("/bin/sh", f"{PACKAGES_PLACE}/{SCRIPT_NAME}"),
        environment=bootstrap_environment(plan.release.date_seconds),
        working_directory=PurePosixPath("/"),
        identity=Identity(),
        hostname="localhost",
        mounts=(Bind(source=handed_in, target=PurePosixPath(PACKAGES_PLACE), read_only=True),),
        network=Network.NONE,
        limits=Limits(),
        read_only=False,
        terminal=False,
        stop_signal=signal.SIGTERM,
        capabilities=DEFAULT_CAPABILITIES,
    )
    missing: list[str] = []
    if storage_for((), home, thrown_away=False) is Storage.COPY:
        spec = replace(spec, copied=True)  # there is nothing to be copied: what was unpacked is the root
        missing = [path[1:] for path, _ in reversed(stub_paths(spec)) if not os.path.lexists(f"{tree}{path}")]
    with open(os.devnull, "rb") as nothing, log.open("wb") as output:
        state = run(spec, stdin=nothing.fileno(), stdout=output.fileno(), stderr=output.fileno())
    remove_stubs(tree, missing)
    if state.status != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n".join(lines[-_LOG_TAIL_LINES:])
        raise BuildStepFailed(
            f"installing the packages of {_describe(plan.release)} failed with status {state.status}:\n{tail}",
            span=None,
            status=state.status,
            log_tail=tail,
        )


def _config(plan: BootstrapPlan, diff_id: str) -> ImageConfig:
    release = plan.release
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(release.date_seconds))
    row = History(
        created=created,
        created_by="contain: bootstrap of a Debian archive",
        comment=f"Debian {release.version} ({release.codename}), Release file of {created}, {release.digest}",
    )
    return ImageConfig(
        platform=Platform(os="linux", architecture=plan.architecture),
        created=created,
        diff_ids=(diff_id,),
        history=(row,),
        environment=(("PATH", ENVIRONMENT_PATH),),
        command=("bash",),
    )


def remove_old_downloads(home: HostPath, *, older_than_seconds: float) -> int:
    """Remove cached files of the archive that no bootstrap used for so long; returns how many bytes that gave back."""
    freed = 0
    for entry in (home / "debian").glob("*"):
        try:
            found = entry.stat()
            if time.time() - found.st_mtime > older_than_seconds:
                entry.unlink()
                freed += found.st_size
        except OSError:
            continue  # another process removed it, or uses it
    return freed
