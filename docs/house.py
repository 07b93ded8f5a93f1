"""Draws the picture of the architecture: the rooms of the package and their imports.

    python docs/house.py

The floors are those of `[tool.importlinter]`. Neighbours of which none imports another
share a storey. An arrow stands for an import, unless other arrows lead there, too. The
same imports give the same bytes, which a test compares.
"""

import random
from itertools import combinations
from pathlib import Path
from statistics import fmean

import grimp
import networkx as nx
import tomllib

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "pictures" / "architecture.svg"
WIDTH, PITCH, HEIGHT, AIR = 400, 62, 36, 14  # of all, of a storey, of and between rooms
HEAD = """\
<svg class="architecture" viewBox="0 0 {} {}" xmlns="http://www.w3.org/2000/svg" \
role="img" aria-labelledby="house house-text" fill="none">
<title id="house">The floors of pyro_vae_zoo, from the command line to the errors</title>
<desc id="house-text">Arrows lead from folders and files to those that they import.</desc>
<style>svg:root {{color-scheme: light dark; font: 12.5px sans-serif; text-anchor: middle}}
svg:root :is(rect, .flow) {{stroke: CanvasText}}
svg:root :is(text, .tip) {{fill: CanvasText}}</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" \
markerHeight="6" orient="auto"><path class="tip" d="M0 0 L8 4 L0 8 z"/></marker></defs>
"""

Place = str | tuple[str, int]  # a room, or where arrows to it pass through a storey
X = dict[Place, float]


def read_rooms() -> tuple[nx.DiGraph, dict[str, int]]:
    """The imports between rooms, and the sizes of these in the order of the floors."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    contracts = tools["importlinter"]["contracts"]
    (contract,) = (c for c in contracts if c["type"] == "layers")
    layers = contract["layers"]
    names = {f"pyro_vae_zoo.{n}": n for layer in layers for n in layer.split(" : ")}
    modules = grimp.build_graph(
        "pyro_vae_zoo", exclude_type_checking_imports=True, cache_dir=None
    )
    for ignored in contract["ignore_imports"]:
        importer, imported = ignored.split(" -> ")
        modules.remove_import(importer=importer, imported=imported)
    sizes = {room: len(modules.find_descendants(name)) for name, room in names.items()}
    for name in names:
        modules.squash_module(name)
    imports = nx.DiGraph()
    for name, room in names.items():
        found = modules.find_modules_directly_imported_by(name) & names.keys() - {name}
        imports.add_edges_from((room, names[other]) for other in sorted(found))
    return imports, sizes


def share_storeys(rooms: list[str], imports: nx.DiGraph) -> dict[Place, int]:
    """The storey of each room: the next, where one of the last imports it or it is full."""
    storeys: dict[Place, int] = {}
    level, taken = 0, 0.0
    for room in rooms:
        width = 2 * half_width(room) + AIR
        imported = any(storeys[other] == level for other in imports.predecessors(room))
        if imported or taken + width > WIDTH - 5 * AIR:  # and arrows pass
            level, taken = level + 1, 0.0
        storeys[room] = level
        taken += width
    return storeys


def cut_arrows(imports: nx.DiGraph, storeys: dict[Place, int]) -> nx.DiGraph:
    """Cut arrows at storeys that they pass, where those to one room join."""
    parts = nx.DiGraph()
    for room, target in sorted(nx.transitive_reduction(imports).edges):
        passed = {(target, i): i for i in range(storeys[room] + 1, storeys[target])}
        nx.add_path(parts, [room, *passed, target])
        storeys |= passed
    return parts


def half_width(place: Place) -> float:
    """Half of what a place takes of its storey."""
    return max(4.0 * len(place) + 10, 38.0) if isinstance(place, str) else 0.0


def arrange(storeys: dict[Place, int], parts: nx.DiGraph, seed: int) -> X:
    """The middles of all places, each close to its neighbours above and below."""
    luck = random.Random(seed)
    x = {place: WIDTH * luck.random() for place in storeys}
    down = range(max(storeys.values()) + 1)
    for level in [*down, *reversed(down)] * 15:
        storey = [place for place in storeys if storeys[place] == level]
        near = {p: [x[n] for n in nx.all_neighbors(parts, p)] for p in storey}
        wish = {place: fmean([WIDTH / 2, *xs]) for place, xs in near.items()}
        row = sorted(storey, key=wish.__getitem__)
        left, right = 2.0, WIDTH - 2.0
        for place in row:
            x[place] = max(wish[place], left + half_width(place))
            left = x[place] + half_width(place) + AIR
        for place in reversed(row):
            x[place] = min(x[place], right - half_width(place))
            right = x[place] - half_width(place) - AIR
    return x


def cost(x: X, parts: nx.DiGraph, y: dict[Place, int]) -> float:
    """The ways of the arrows to the side, and as much as 60 for two that cross."""
    ways = [abs(x[a] - x[b]) for a, b in parts.edges]
    for (a, b), (c, d) in combinations(parts.edges, 2):
        if y[a] == y[c] and (x[a] - x[c]) * (x[b] - x[d]) < 0:
            ways.append(60.0)
    return sum(ways)


def arrow(upper: Place, lower: Place, x: X, y: dict[Place, int]) -> str:
    """A part of an arrow, from the lower edge of a place to one in the next storey."""
    out, into = max(half_width(upper) - 9, 0.0), max(half_width(lower) - 9, 0.0)
    a = min(max(x[lower], x[upper] - out), x[upper] + out)  # straight down if it can be
    b = min(max(x[upper], x[lower] - into), x[lower] + into)
    top, middle = y[upper] + HEIGHT, y[lower] - (PITCH - HEIGHT) // 2
    path = f"M{a:.0f} {top}C{a:.0f} {middle} {b:.0f} {middle} {b:.0f} {y[lower]}"
    end = '" marker-end="url(#tip)' if isinstance(lower, str) else f"v{HEIGHT}"
    return f'<path class="flow" d="{path}{end}"/>\n'


def box(room: str, modules: int, x: float, y: int) -> str:
    """A room with its name, and the number of modules of a folder."""
    left, width = x - half_width(room), 2 * half_width(room)
    lines = f'<rect x="{left:.0f}" y="{y}" rx="6" '
    lines += f'width="{width:.0f}" height="{HEIGHT}"/>\n'
    name, down = (f"{room}/", 15) if modules else (f"{room}.py", 22)
    lines += f'<text class="name" x="{x:.0f}" y="{y + down}">{name}</text>\n'
    if modules:
        count = f"{modules} modules" if modules > 1 else "1 module"
        lines += f'<text x="{x:.0f}" y="{y + 29}">{count}</text>\n'
    return lines


def draw() -> str:
    """The picture as SVG."""
    imports, sizes = read_rooms()
    storeys = share_storeys([*sizes], imports)
    parts = cut_arrows(imports, storeys)
    y = {place: PITCH * level + 4 for place, level in storeys.items()}
    tries = (arrange(storeys, parts, seed) for seed in range(200))
    x = min(tries, key=lambda x: cost(x, parts, y))
    lines = [HEAD.format(WIDTH, max(y.values()) + HEIGHT + 4)]
    lines += [arrow(upper, lower, x, y) for upper, lower in parts.edges]
    lines += [box(room, size, x[room], y[room]) for room, size in sizes.items()]
    return "".join([*lines, "</svg>\n"])


if __name__ == "__main__":
    PICTURE.write_text(draw())
