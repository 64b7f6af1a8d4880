"""``contain build``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

from contain.annotations import TYPE_CHECKING
from contain.cli.arguments import Parser, parse_labels, parse_variables
from contain.cli.build_runs import add_run_arguments, run_options
from contain.cli.builder import add_cache_arguments, read_cache_policy
from contain.cli.lock import add_lock_flags, attest, find_lock, refuse_without_build
from contain.cli.output import TerminalProgress
from contain.errors import BuildStepFailed, HostError, NotSupported, UsageError
from contain.values import replace

if TYPE_CHECKING:
    from contain.build.outputs import Output
    from contain.build.request import BuildRequest, BuildResult
    from contain.build.verify.report import Verification
    from contain.engine import Engine

_PROGRESS = ("auto", "plain", "tty", "quiet")


def add_build_arguments(parser: Parser) -> None:
    """Docker's flags."""
    parser.add_argument(
        "context",
        metavar="CONTEXT",
        help="whose files COPY and ADD may use: a directory, '-' (a tar archive or a Dockerfile on standard input), a URL of one, "
        "or a git repository",
    )
    parser.add_argument("-t", "--tag", action="append", default=[], metavar="NAME", help="name of the image; may be repeated")
    parser.add_argument("-f", "--file", metavar="FILE", help="the Dockerfile, or '-' (default: CONTEXT/Dockerfile)")
    parser.add_argument("--target", metavar="STAGE", help="build this stage (default: the last)")
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="K=V", help="value of an ARG; K alone takes the caller's"
    )
    parser.add_argument(
        "--build-context",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a directory, docker-image://, oci-layout:// or URL that stands in for the stage or image NAME",
    )
    parser.add_argument("--label", action="append", default=[], metavar="K=V", help="a label of the image; may be repeated")
    parser.add_argument("--platform", metavar="OS/ARCH", help="what to build for (default: this machine)")
    parser.add_argument(
        "-o",
        "--output",
        action="append",
        default=[],
        metavar="DEST",
        help="a directory for the files, or type=local|tar|oci|docker|image|registry,dest=PATH; '-' is a tar on standard output",
    )
    parser.add_argument("--push", action="store_true", help="the same as --output=type=registry")
    parser.add_argument("--load", action="store_true", help="the same as --output=type=docker: the image goes to the store")
    parser.add_argument("--no-cache", action="store_true", help="carry out every step")
    parser.add_argument(
        "--reproducible",
        dest="no_reproducible",
        action="store_false",
        default=False,
        help="take times, logs and random names of package managers out of each RUN's layer (default)",
    )
    parser.add_argument(
        "--no-reproducible", dest="no_reproducible", action="store_true", help="keep each RUN's layer as the RUN left it"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="carry out every step twice, under different conditions, and show what differs, where and why; 1 if anything does",
    )
    add_cache_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument("--plan", action="store_true", help="show stages and steps, and do nothing")
    parser.add_argument("--check", action="store_true", help="show what the build checks find, and build nothing")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="of what --check and --verify show")
    parser.add_argument("--iidfile", metavar="FILE", help="write the image's digest to FILE")
    parser.add_argument("--metadata-file", metavar="FILE", help="write what was built to FILE, as JSON")
    parser.add_argument("--progress", choices=_PROGRESS, default="auto", help="quiet: the digest and nothing else")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but the digest")
    add_lock_flags(parser)
    parser.add_switch(
        "--sbom", metavar="FILE", help="attach a bill of materials (CycloneDX) to the image, and write it to FILE"
    )
    parser.add_switch("--provenance", metavar="FILE", help="attach how it was made (SLSA) to the image, and write it to FILE")
    for legacy in ("--rm", "--force-rm"):  # containers of steps never stay, so both are true whatever is said
        parser.add_argument(legacy, action="store_true", help=argparse.SUPPRESS)


def build(options: argparse.Namespace) -> int:
    """Build, and print the digest last."""
    from contain.build.contexts.opening import open_context
    from contain.build.contexts.places import ContextKind, parse_context
    from contain.build.run.special_arguments import keeps_git_directory
    from contain.engine import Engine

    if options.format == "json" and not (options.check or options.verify):
        raise UsageError("--format is for --check and --verify", code="bad-arguments", remedy="a build prints the digest only")
    place = parse_context(options.context, is_directory=os.path.isdir(options.context))
    if options.file == "-" and place.kind is ContextKind.STANDARD_INPUT:
        raise UsageError("standard input cannot be both the context and the Dockerfile", code="bad-arguments")
    if options.verify and (options.plan or options.check):
        raise UsageError("--verify builds, and --plan and --check do not", code="bad-arguments", remedy="choose one of them")
    outputs = _outputs(options)
    refuse_without_build(options)
    request = parse_request(options)
    for name, place_of_name in request.contexts.items():
        if place_of_name.kind is ContextKind.DIRECTORY and not os.path.isdir(place_of_name.value):
            raise UsageError(f"--build-context {name}: {place_of_name.value!r} is not a directory", code="bad-build-context")
    if options.file == "-":
        request = replace(request, dockerfile=None, dockerfile_text=_read_standard_input())
    elif options.file and Path(options.file).is_fifo():  # what a shell makes of <(command): can be read once
        request = replace(request, dockerfile=None, dockerfile_text=_decode(Path(options.file).read_bytes(), options.file))
    progress = TerminalProgress(quiet=options.quiet or options.progress == "quiet")
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(Engine.open(progress=progress))
        stack.callback(progress.close)
        opened = stack.enter_context(
            open_context(
                place,
                standard_input=sys.stdin.buffer,
                store=engine.store,
                progress=progress,
                keep_git=keeps_git_directory(request.build_args),
            )
        )
        request = replace(
            request,
            context=opened.directory,
            context_name=opened.name,
            context_source=opened.source,
            dockerfile_text=request.dockerfile_text if request.dockerfile_text is not None else opened.dockerfile_text,
        )
        request = replace(request, lock=find_lock(options, request))
        if options.check:
            return _check(engine, request, as_json=options.format == "json")
        if options.plan:
            sys.stdout.write(engine.explain_build(request) if options.explain else engine.plan_build(request))
            return 0
        verification = None
        try:
            if options.verify:
                result, verification = engine.verify_build(request)
            else:
                result = engine.build(request)
        except BuildStepFailed as error:
            if options.quiet and error.log_tail:
                sys.stderr.write(error.log_tail)
            raise
        finally:
            progress.close()
        if verification is not None:
            sys.stdout.write(_render_verification(verification, as_json=options.format == "json"))
            if not verification.reproducible:
                return 1
        attest(engine, result, request, options)
        for output in outputs:
            _export(engine, request, result, output)
    if options.iidfile:
        _write(options.iidfile, result.digest)
    if options.metadata_file:
        _write(options.metadata_file, json.dumps(_metadata(request, result), indent=2, sort_keys=True) + "\n")
    if verification is None and not any(output.destination == "-" for output in outputs):
        sys.stdout.write(result.digest + "\n")
    _keep_for_replay(engine.home, request, result, options, progress)
    return 0


_REPLAYED = frozenset(
    [
        "command_line",
        "context",
        "tag",
        "file",
        "target",
        "build_arg",
        "build_context",
        "label",
        "platform",
        "progress",
        "quiet",
        "format",
    ]
)
"""Flags that say what is built. A build with any other one does something besides, and is never answered from its record."""


def _keep_for_replay(
    home: Path, request: BuildRequest, result: BuildResult, options: argparse.Namespace, progress: TerminalProgress
) -> None:
    """Write down a build that did nothing new, so that the same one is answered at once: `contain.build.cache.replay`."""
    inputs = result.inputs
    others = {name: value for name, value in vars(options).items() if name not in _REPLAYED}
    if inputs is None or result.executed_steps or any(value not in _UNSAID for value in others.values()):
        return
    if any("=" not in argument for argument in options.build_arg) or request.dockerfile_text is not None:
        return
    from contain.build.cache.replay import keep

    keep(
        options.command_line,
        home=str(home),
        texts={str(path.absolute()): text for path, text in inputs.texts.items()},
        trees=[(str(root.absolute()), observed) for root, observed in inputs.trees],
        names={**inputs.names, **{str(tag): result.digest for tag in request.tags}},
        files=[f"layers/{diff_id.removeprefix('sha256:')}/layer.json" for diff_id in result.image.config.diff_ids],
        digest=result.digest,
        shown="".join(line + "\n" for line in progress.said),
    )


_UNSAID: tuple[object, ...] = (None, False, "", [])
"""Values of flags that were not given."""


def parse_request(options: argparse.Namespace) -> BuildRequest:
    """What the flags ask for; the context is opened later."""
    from contain.build.contexts.places import parse_named_contexts
    from contain.build.request import BuildRequest
    from contain.reference import parse_reference
    from contain.registry.platform import parse_platform

    if "," in (options.platform or ""):
        raise NotSupported(
            "one build for several platforms is not supported", remedy="build for each with a --platform of its own"
        )
    return BuildRequest(
        context=None,
        dockerfile=Path(options.file) if options.file else None,
        target=options.target,
        build_args=dict(parse_variables(options.build_arg, flag="--build-arg")),
        tags=tuple(parse_reference(name) for name in options.tag),
        no_cache=options.no_cache,
        reproducible=not options.no_reproducible,
        cache=read_cache_policy(options),
        run=run_options(options),
        platform=parse_platform(options.platform) if options.platform else None,
        contexts=parse_named_contexts(options.build_context),
        labels=dict(parse_labels(options.label)),
    )


def _render_verification(verification: Verification, *, as_json: bool) -> str:
    from contain.build.verify.report import render_verification, render_verification_json

    return render_verification_json(verification) if as_json else render_verification(verification)


def _check(engine: Engine, request: BuildRequest, *, as_json: bool) -> int:
    """Show what the checks find. 1 if there is a warning, as ``docker build --check``; a file that cannot be built is an error."""
    from contain.dockerfile.checks.render import findings_json, render_findings

    report = engine.check_build(request)
    unknown = [base.name for base in report.unknown_bases]
    if as_json:
        sys.stdout.write(findings_json(report.file, report.warnings, report.notes, error=report.error, unknown_bases=unknown))
        return 1 if report.warnings or report.error is not None else 0
    for findings in (report.warnings, report.notes):
        if findings:
            sys.stdout.write(render_findings(findings, report.text) + "\n")
    for name in unknown:
        sys.stdout.write(f"not checked: the variables and the platform of {name}, which is not in the store\n")
    if report.error is not None:
        raise report.error
    counts = [
        f"{len(found)} {word}{'s' if len(found) != 1 else ''}"
        for found, word in ((report.warnings, "warning"), (report.notes, "note"))
        if found
    ]
    sys.stdout.write(f"Check complete: {' and '.join(counts) or 'nothing found'}.\n")
    return 1 if report.warnings else 0


def _read_standard_input() -> str:
    return _decode(sys.stdin.buffer.read(), "standard input")


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"the Dockerfile from {name} is not UTF-8: {error}", code="not-utf-8") from error


def _outputs(options: argparse.Namespace) -> tuple[Output, ...]:
    if not (options.output or options.push or options.load):
        return ()
    from contain.build.outputs import Output, OutputKind, parse_output
    from contain.reference import parse_reference

    outputs = [parse_output(text) for text in options.output]
    outputs += [Output(kind=OutputKind.REGISTRY, push=True)] if options.push else []
    outputs += [Output(kind=OutputKind.DOCKER)] if options.load else []
    for output in outputs:
        for name in output.names:
            parse_reference(name)
        if output.push and not (output.names or options.tag):
            raise UsageError("an image without a name cannot be pushed", code="bad-output", remedy="name it with -t")
    if sum(output.destination == "-" for output in outputs) > 1:
        raise UsageError("two outputs cannot share standard output", code="bad-output")
    return tuple(outputs)


def _export(engine: Engine, request: BuildRequest, result: BuildResult, output: Output) -> None:
    from contain.build.outputs import OutputKind, export_directory, export_tar, open_destination

    for name in output.names:
        engine.tag(result.digest, name)
    names = (*(reference.familiar for reference in request.tags), *output.names)
    trees = engine.store.layer_trees(result.image)
    if output.kind is OutputKind.LOCAL:
        export_directory(trees, Path(output.destination), progress=engine.progress)
    elif output.kind is OutputKind.TAR:
        with open_destination(output.destination) as out:
            export_tar(trees, out)
    elif output.destination:
        from contain.archive.plan import FileFormat

        form = FileFormat.OCI if output.kind is OutputKind.OCI else FileFormat.DOCKER
        if output.destination == "-":
            with open_destination(output.destination) as out:
                engine.save(names or (result.digest,), out, form=form)
        else:
            engine.save(names or (result.digest,), Path(output.destination), form=form)
    if output.push:
        for name in names:
            engine.push(name)


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise HostError(f"cannot write {path}", path=path, errno=error.errno or 0, code="output-io") from error


def _metadata(request: BuildRequest, result: BuildResult) -> dict[str, object]:
    """The keys that buildx writes, as far as they have a meaning here."""
    return {
        "containerimage.digest": result.digest,
        "containerimage.config.digest": result.image.manifest.config.digest,
        "image.name": ",".join(reference.familiar for reference in request.tags),
        "contain.bases": {source.name: source.digest for source in result.sources},
    }
