"""The parser of each command as an attribute, as the pages of `command_line/` ask for it.

The help of a flag ends with its default where `--help` shows one.
"""

import argparse
from collections.abc import Callable

from pyro_vae_zoo.cli.parser import make_parser


def __getattr__(name: str) -> Callable[[], argparse.ArgumentParser]:
    commands = make_parser()._subparsers._group_actions[0].choices
    if name not in commands:
        raise AttributeError(name)
    return lambda: _as_helped(commands[name])


def _as_helped(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    formatter = parser.formatter_class(parser.prog)
    for action in parser._actions:
        text = formatter._get_help_string(action) or ""
        action.help = text.replace("<", r"\<")  # which Markdown takes for HTML
    for group in parser._action_groups:
        group.title = group.title.capitalize()
    return parser
