"""The command `sitegen`: arguments in, messages out; no logic."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

EXIT_BAD_INPUT = 2
EXIT_PROBLEMS = 1
EXIT_INTERRUPTED = 130

EPILOG = """\
examples:
  sitegen build demo --out site            the demo that ships with the package
  sitegen new release.toml                 a commented release file to start from
  sitegen build release.toml --preview     one percent of the corpus, and what the whole would cost
  sitegen build release.toml --out site
  sitegen serve site
  sitegen check site
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 (`check` found problems), 2 (bad input), 130 (interrupted)."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept: the same command continues there.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        if not _is_expected(error):
            raise
        print(f"sitegen: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return status


def _build(options: argparse.Namespace) -> int:
    from sitegen.progress import Progress
    from sitegen.release import Release

    progress = Progress(not options.quiet)
    release = Release.load(options.release)
    if options.preview:
        from sitegen.preview import preview

        print(preview(release, features=options.features, progress=progress).table())
        return 0
    from sitegen.recipe import build

    report = build(release, options.out, cache=options.cache, features=options.features, progress=progress, force=options.force)
    if not options.quiet:
        print(report.table())
    return 0


def _new(options: argparse.Namespace) -> int:
    from sitegen.errors import OutputError
    from sitegen.release_template import TEMPLATE

    try:
        with options.path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(name=options.path))
    except FileExistsError:
        raise OutputError(f"{options.path} exists already: name another file, or remove it first.") from None
    except OSError as error:
        raise OutputError(f"Cannot write {options.path}: {error.strerror}.") from None
    print(f"Wrote {options.path}. Fill in the sources, then: sitegen build {options.path} --preview")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from sitegen.serve import serve

    serve(options.site, options.port, options.prefix)
    return 0


def _check(options: argparse.Namespace) -> int:
    from sitegen.check import check

    problems = check(options.site, host=options.host)
    for problem in problems:
        print(problem)
    print(f"{options.site}: {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    return EXIT_PROBLEMS if problems else 0


def feature_list(text: str) -> list[int]:
    """Read `12,99,400-460` as a list of feature ids, ascending."""
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise argparse.ArgumentTypeError(f"expected ids and ranges such as 12,99,400-460, got {part.strip()!r}")
        chosen.update(range(int(first), int(last if dash else first) + 1))
    return sorted(chosen)


def _is_expected(error: Exception) -> bool:
    """Return True for errors that explain themselves: those of our two packages, and a missing extra."""
    from sae_fast.errors import SaeFastError
    from sitegen.errors import SitegenError

    if isinstance(error, ModuleNotFoundError) and not (error.name or "sitegen").startswith(("sitegen", "sae_fast")):
        error.msg = f'The package "{error.name}" is not installed. Install it with: pip install "sae-fast[site]"'
        return True
    return isinstance(error, SitegenError | SaeFastError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sitegen",
        description="Static dashboard sites of the features of sparse autoencoders.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_build(commands.add_parser("build", help="build a site from a release file", epilog=EPILOG, formatter_class=_RAW))

    new = commands.add_parser("new", help="write a commented release file")
    new.add_argument("path", type=Path, nargs="?", default=Path("release.toml"), help="default: %(default)s")
    new.set_defaults(run=_new)

    serve = commands.add_parser("serve", help="serve a site on this machine")
    serve.add_argument("site", type=Path)
    serve.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    serve.add_argument("--prefix", default="/", help="path below which the site lies, such as /repo/; default: %(default)s")
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check", help="check links, data and sizes of a site")
    check.add_argument("site", type=Path)
    check.add_argument("--host", choices=["github", "cloudflare"], default="github", help="whose limits; default: %(default)s")
    check.set_defaults(run=_check)
    return parser


_RAW = argparse.RawDescriptionHelpFormatter


def _add_build(build: argparse.ArgumentParser) -> None:
    build.add_argument("release", nargs="?", default="release.toml", help="release file, or demo; default: %(default)s")
    build.add_argument("--out", type=Path, default=Path("site"), help="folder of the site; default: %(default)s")
    build.add_argument(
        "--preview", action="store_true", help="run one percent of the corpus and estimate the whole; --out is not used"
    )
    build.add_argument("--features", type=feature_list, metavar="IDS", help="build these features only, such as 12,99,400-460")
    build.add_argument("--cache", type=Path, help="folder of finished stages; default: .sitegen beside the release file")
    build.add_argument("--quiet", action="store_true", help="show nothing but errors")
    build.add_argument("--force", action="store_true", help="write the site again even if it is up to date")
    build.set_defaults(run=_build)
