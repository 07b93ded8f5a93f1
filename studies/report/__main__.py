"""Tables, figures and blocks of pages, from the files in `results/`.

    python -m studies.report --check

Exit codes: 0 done, 1 `--check` found something stale, 2 a mistake that you can mend,
130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pyro_vae_zoo.cli.arguments import Formatter
from pyro_vae_zoo.errors import UserError
from studies.report.generated import generate, stale

__all__ = ["main"]

_RESULTS = Path(__file__).resolve().parents[2] / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check what is made from results, and return the exit code."""
    try:
        return _report(_parse(argv))
    except (UserError, OSError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what is written is whole", file=sys.stderr)
        return 130


def _report(args: argparse.Namespace) -> int:
    if not args.results.is_dir():
        raise UserError(f"expected a folder of results {args.results}; there is none")
    pages = args.pages
    if pages is None:
        root = args.results.parent
        pages = [*root.glob("README.md"), *sorted(root.glob("docs/**/*.md"))]
    if not args.check:
        paths = generate(args.results, pages)
        for path in paths:
            print(f"written: {path}")
        print(f"{len(paths)} files written, the others are up to date")
        return 0
    names = stale(args.results, pages)
    for name in names:
        print(f"stale: {name}")
    print("run it without --check to write them" if names else "nothing is stale")
    return int(bool(names))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m studies.report",
        description="Write what is stale of the files made from --results: table.md, "
        "table.csv and table.png where rows of a paper's table are, comparison.md and "
        "comparison.csv where `compare` left its runs; and in README and docs all that "
        "stands between the comments `begin table: NAME` and `end table: NAME`, where "
        "NAME is a folder or a benchmark's file. tables.json, in --results, says which "
        "panels, rows and columns a table has. A figure is stale where its numbers have "
        "changed; delete it to have it drawn anew.",
        epilog="example: python -m studies.report --check, before a commit",
        formatter_class=Formatter,
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path(os.path.relpath(_RESULTS)),
        metavar="DIR",
        help="the folder of all folders of results",
    )
    parser.add_argument(
        "--pages",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="with the blocks (default: README.md and docs beside DIR, where they are)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; name what is stale, and exit with 1 if anything is",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
