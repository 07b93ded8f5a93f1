"""The command line: `python -m pyro_vae_zoo`, and the scripts in `examples/`.

Exit codes: 0 done, 1 training met a number that is not finite or a process of several died,
2 a mistake that you can mend (one line says which), 130 interrupted, by Ctrl-C or SIGTERM.
"""

import argparse
import importlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TextIO

from pyro_vae_zoo.cli.arguments import typed
from pyro_vae_zoo.cli.config import parse
from pyro_vae_zoo.cli.parser import make_parser
from pyro_vae_zoo.errors import DivergedError, LostRankError, UserError
from pyro_vae_zoo.files import CONFIG_FILE

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args, started = argparse.Namespace(command=""), time.time()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack a letter of ours
        sys.stdout.reconfigure(errors="replace")
    try:
        parser = make_parser()
        if "_ARGCOMPLETE" in os.environ:  # a shell asks for what could be typed
            importlib.import_module("argcomplete").autocomplete(parser)
        args = parse(parser, argv)
        with _terminated_like_interrupted():
            return _run(args)
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _is_closed(sys.stdout):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return _fail(error, 2)
    except (DivergedError, LostRankError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print(f"interrupted{_how_to_go_on(args, argv, started)}", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    _wait_briefly()
    # PyTorch takes seconds to import, and help and version need none of it.
    from pyro_vae_zoo.cli import compare, inspect, listing, make, train
    from pyro_vae_zoo.runtime import Ranks, joined

    commands: dict[str, Callable[[argparse.Namespace], None]] = {
        "train": train.train_command,
        "density": train.density_command,
        "evaluate": inspect.evaluate_command,
        "diagnose": inspect.diagnose_command,
        "explore": inspect.explore_command,
        "compare": compare.compare_command,
        "sample": make.sample_command,
        "encode": make.encode_command,
        "list": listing.list_command,
    }
    if getattr(args, "help_options", False):
        listing.print_options(args.guide, train.options_of(args))
        return 0
    # A cluster may set WORLD_SIZE for other reasons: only torchrun sets a RANK beside it.
    shares = args.command in _SHARED or "RANK" in os.environ
    where = joined(getattr(args, "device", "auto")) if shares else nullcontext(Ranks())
    with where as ranks:
        if ranks.several and args.command not in _SHARED:
            raise UserError(
                f"{args.command} runs in one process, got {ranks.size}; use torchrun "
                f"only for {', '.join(_SHARED)}"
            )
        commands[args.command](args)
    return 0


def _wait_briefly() -> None:
    """Have the threads of a step wait for each other asleep, after some microseconds.

    GNU's OpenMP, which PyTorch loads, has them wait awake for milliseconds. Beside other
    programs on all cores a training in two threads then takes fifteen times as long.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _is_closed(output: TextIO) -> bool:
    """True where whoever reads the output has read enough, as `head` does."""
    try:
        print(file=output, flush=True)
    except BrokenPipeError:
        return True
    return False


def _fail(error: Exception, code: int) -> int:
    print(
        f"error: {' '.join(map(str.strip, str(error).splitlines()))}", file=sys.stderr
    )
    return code


_SHARED = ("train", "density", "evaluate", "compare")  # by the processes of torchrun


def _how_to_go_on(
    args: argparse.Namespace, argv: Sequence[str] | None, started: float
) -> str:
    """The words to type after an interruption, where there is anything to go on with."""
    if args.command not in ("train", "density", "compare"):
        return ""
    words = list(sys.argv[1:] if argv is None else argv)
    words.remove(args.command)
    train = sys.modules.get("pyro_vae_zoo.cli.train")  # else no run has begun
    begun = args.command == "compare"
    if train is not None and not begun:
        config = train.folder_of(args) / CONFIG_FILE
        begun = config.exists() and config.stat().st_mtime >= started
    if begun:  # `--ov` is short for --overwrite
        words = [word for word in words if not word.startswith("--ov")]
    if begun and not getattr(args, "resume", True):
        words.append("--resume")
    return f"; to go on: {typed(args.command, words)}"


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which clusters send, raises KeyboardInterrupt as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
