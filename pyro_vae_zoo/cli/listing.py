"""What there is: `list`, and the options of a guide; all of it read off the code itself.

A name is described by the first line of its docstring, *source: what it is* or *what it is
(source)*; an option by its declaration, or by what the docstrings say of it.
"""

import argparse
import inspect
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import partial
from typing import Any, cast

from pyro_vae_zoo import transforms
from pyro_vae_zoo.cli.arguments import KINDS
from pyro_vae_zoo.data.names import DATASETS
from pyro_vae_zoo.errors import unknown_name
from pyro_vae_zoo.files import resolve
from pyro_vae_zoo.models import registry
from pyro_vae_zoo.models.create import pair_options
from pyro_vae_zoo.models.parts import PLACES, place_options, whole_options
from pyro_vae_zoo.models.priors import PRIORS
from pyro_vae_zoo.nn import networks
from pyro_vae_zoo.nn.likelihoods import LIKELIHOODS
from pyro_vae_zoo.nn.names import NETWORKS
from pyro_vae_zoo.nn.options import PairOptions
from pyro_vae_zoo.options import declared
from pyro_vae_zoo.weights.pretrained import list_pretrained, pretrained_info

__all__ = ["Named", "list_command", "named", "print_options"]


@dataclass(frozen=True)
class Named:
    """Something that has a name in the zoo: what it is, and where it is from."""

    name: str
    about: str
    source: str = ""


def list_command(args: argparse.Namespace) -> None:
    """One line for each name, or one JSON object of all of them."""
    found = {kind: named(kind) for kind in args.kinds or KINDS}
    if args.json:
        records = {kind: [asdict(one) for one in all_] for kind, all_ in found.items()}
        print(json.dumps(records, indent=2, ensure_ascii=False))
        return
    for i, (kind, all_) in enumerate(found.items()):
        width = max((len(one.name) for one in all_), default=0)
        print(f"\n{kind}: {KINDS[kind]}" if i else f"{kind}: {KINDS[kind]}")
        for one in all_:
            source = f" ({one.source})" if one.source else ""
            head, text = f"  {one.name:<{width}}  ", one.about + source
            print(
                _hanging(head, text)
                if sys.stdout.isatty()
                else f"{head}{text}".rstrip()
            )


def _hanging(head: str, text: str) -> str:
    """A line of the terminal's width, and more below its text."""
    width, indent = shutil.get_terminal_size().columns, " " * len(head)
    lines = textwrap.wrap(text, max(width - len(head), 20))
    return f"\n{indent}".join([head + lines[0], *lines[1:]]) if lines else head.rstrip()


def named(kind: str) -> list[Named]:
    """All names of a kind, one of `KINDS`.

    Raises:
        UserError: for another kind.

    >>> one = next(one for one in named("guides") if one.name == "planar")
    >>> one.source, one.about
    ('Rezende & Mohamed 2015, eq. 10', 'each step is z + u tanh(w^T z + b).')
    """
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    return _NAMES[kind]()


def _described(name: str, doc: str | None) -> Named:
    """A name by the first line of a docstring."""
    line = re.sub(r"\\[()]", "", inspect.cleandoc(doc or "").partition("\n")[0])
    if before := re.fullmatch(r"([A-Z][^:()]* \d{4}[^:()]*): (.+)", line):
        return Named(name, before[2], before[1])
    if behind := re.fullmatch(r"(.+?) \(([^()]* \d{4}[^()]*)\)(.*)", line):
        return Named(name, behind[1] + behind[3], behind[2])
    return Named(name, line)


def _guides(names: list[str]) -> list[Named]:
    found = []
    for name in names:
        one = _described(name, _documented(name).__doc__)
        build: Any = registry.entry(name).build  # a shared one, with other defaults
        own = [f"{k}={v}" for k, v in getattr(build, "keywords", {}).items()]
        about = f"{one.about.rstrip('.')}; {', '.join(own)}" if own else one.about
        found.append(replace(one, about=about))
    return found


def _documented(name: str) -> Callable:
    """The function whose docstring is that of a registered guide.

    A builder is one itself, or a call of a shared one with the function that differs.
    """
    entry = registry.entry(name)
    if not isinstance(entry.build, partial):
        return entry.build
    own = [*reversed(entry.build.args), *reversed(entry.options_of)]
    return next((f for f in own if callable(f)), entry.build.func)


def _transforms() -> list[Named]:
    """Those with a plain and a conditional form, each by the file that it is in."""
    inside = f"{transforms.__name__}."
    files = [m for name, m in sys.modules.items() if name.startswith(inside)]
    return [
        _described(name, next(f for f in files if name in f.__all__).__doc__)
        for name in transforms.__all__
        if f"conditional_{name}" in transforms.__all__
    ]


def _networks() -> list[Named]:
    lines = re.findall(r"^- `(\w+)`: (.+?)[,.]?$", networks.__doc__ or "", re.M)
    known = {name: _described(name, about) for name, about in lines}
    return [known.get(name, Named(name, "")) for name in NETWORKS]


def _pretrained() -> list[Named]:
    found = []
    for name in list_pretrained():
        info = pretrained_info(name)
        number = f"log p(x) {info['log_likelihood']:.2f} nats"
        draws = f"{info['num_particles']} particles"
        about = f"{info['guide']} of {info['data']}: {number}, {draws}"
        found.append(Named(name, about))
    return found


_NAMES: dict[str, Callable[[], list[Named]]] = {
    "guides": lambda: _guides(registry.list_guides()),
    "densities": lambda: _guides(registry.list_density_models()),
    "priors": lambda: [_described(k, made.__doc__) for k, made in PRIORS.items()],
    "likelihoods": lambda: [_described(k, p.__doc__) for k, p in LIKELIHOODS.items()],
    "networks": _networks,
    "transforms": _transforms,
    "data": lambda: [_described(name, about) for name, about in DATASETS.items()],
    "pretrained": _pretrained,
}


# ------------------------------------------------------------------ options


def print_options(guide: str, given: Mapping[str, Any]) -> None:
    """The options of a guide and of what else was given: type, default and help."""
    lines = []
    for owner, options, functions in _owners(guide, given):
        lines.append(f"options of {owner}")
        for name, default in options.items():
            kind, about = _kind_of(name, default, functions), _about(name, functions)
            head = f"  {_flag(name)}  {kind}" + _shown(default)
            lines += [head, *_wrapped(about)]
    print("\n".join(lines))


Owner = tuple[str, dict[str, Any], list[Callable]]


def _owners(guide: str, given: Mapping[str, Any]) -> Iterator[Owner]:
    """The guide and each place that is filled, with its options and who declares them."""
    if "model" in given:
        make = resolve(given["model"], "model")
        yield f"model {given['model']}", whole_options(make), [make]
        return
    found = resolve(guide, "guide")
    functions = [found]
    if isinstance(found, str):
        entry = registry.entry(found)
        build = getattr(entry.build, "func", entry.build)  # with other defaults
        functions = [_documented(found), build, *entry.options_of]
    known = pair_options(found)
    yield f"guide {guide}", known, functions
    for place in PLACES:
        if place in given and place not in known:
            part = resolve(given[place], place)
            table: Mapping[str, Any] = PRIORS if place == "prior" else LIKELIHOODS
            own = place_options(part, place)
            yield f"{place} {given[place]}", own, [table.get(str(part), part)]


def _flag(name: str) -> str:
    own = {option.name for option in declared(PairOptions)} | {"num_flows"}
    return f"--{name.replace('_', '-')}" if name in own else f"--option {name}="


def _shown(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return ", required"
    if isinstance(default, tuple | list) and default:
        return f", default {','.join(map(str, default))}" + "," * (len(default) == 1)
    return (
        f", default {default:.6g}"
        if isinstance(default, float)
        else f", default {default}"
    )


def _kind_of(name: str, default: Any, functions: list[Callable]) -> str:
    """The type of an option, as it is annotated, or that of its default."""
    for function in functions:
        parameter = _parameters(function).get(name)
        if parameter is not None and parameter.annotation is not parameter.empty:
            kind = parameter.annotation
            origin = re.sub(r"(?:\w+\.)+(?=\w)|Annotated\[|, Option\(.*", "", str(kind))
            return kind.__name__ if isinstance(kind, type) else origin
    return type(default).__name__


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters if callable(function) else {}


def _about(name: str, functions: list[Any]) -> str:
    """What is said of an option: by those who take it, by its declaration, in the file.

    A docstring says it in an entry `name: ...`, or else, where nothing declares the option,
    in the first of its sentences that has the name in backticks.
    """
    modules = [m for m in map(inspect.getmodule, functions) if m is not None]
    nearby = [v for m in modules for v in vars(m).values() if inspect.getmodule(v) is m]
    for function in functions:
        if entry := _entry(name, inspect.getdoc(function)):
            return entry
    classes = [f for f in (PairOptions, *functions, *nearby) if is_dataclass(f)]
    for option in (o for cls in classes for o in declared(cast(type, cls))):
        if option.name == name:
            return option.option.help
    docs = map(inspect.getdoc, (*functions, *nearby, *modules))
    return next((text for doc in docs if (text := _said(name, doc))), "")


def _entry(name: str, doc: str | None) -> str:
    found = re.search(rf"^ +{name}: (.+(?:\n {{8,}}.+)*)", doc or "", re.M)
    return " ".join(found[1].split()) if found else ""


def _said(name: str, doc: str | None) -> str:
    if entry := _entry(name, doc):
        return entry
    parts = [part for part in (doc or "").split("\n\n") if "|" not in part]  # no tables
    sentences = re.split(r"(?<=[.;])\s+(?=[A-Z`])", " ".join(parts))
    found = (" ".join(s.split()) for s in sentences if f"`{name}" in s)
    return next((s for s in found if re.search(rf"`{name}(=[^`]*)?`", s)), "")


def _wrapped(about: str) -> list[str]:
    return textwrap.wrap(about, 76, initial_indent=" " * 6, subsequent_indent=" " * 6)
