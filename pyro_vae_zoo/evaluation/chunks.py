"""Evaluation in chunks: what is wanted of the bound's terms, for all data and draws.

Draws are streamed in chunks sized to memory, from a random state of their own. Where
there is much to compute, the function that each of them is given to is compiled.
"""

import math
import warnings
from collections.abc import Callable, Generator
from functools import partial
from itertools import chain
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from pyro_vae_zoo.data.streamed.rows import part
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.inference.terms import bound_terms
from pyro_vae_zoo.inference.tracing import Pair, TensorPlaces, inductor, trace
from pyro_vae_zoo.options import count
from pyro_vae_zoo.pair.door import sides_and_data
from pyro_vae_zoo.pair.memory import rows_that_fit
from pyro_vae_zoo.pair.modes import evaluating
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.runtime import Ranks, tqdm

__all__ = [
    "chunk_rows_for",
    "chunk_sizes",
    "stream",
    "stream_over_ranks",
]

PARTICLES_PER_CHUNK = 256  # the encoder runs once for so many draws
# Draws of all data, times parameters. On a core so many take 40 to 90 s, a fifth to a half
# less if compiled, and compiling 5 to 40 s. Nothing of it was measured on a GPU.
WORK_WORTH_COMPILING = {"cpu": 2e12}

# From model, guide, data and the number of draws to what is wanted of them: tensors, and
# whatever else is the same for all chunks.
ChunkFunction = Callable[[nn.Module, nn.Module, Tensor, int], dict]
# Rows, columns and the function's values of one chunk after another.
Chunks = Generator[tuple[slice, slice, dict], None, None]


class How(TypedDict):
    """Keyword arguments that functions of a pair hand on to `stream`."""

    seed: int | None
    chunk_rows: int | None
    progress: bool


def stream(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Tensor | np.ndarray,
    num_particles: int,
    function: ChunkFunction,
    *,
    seed: int | None,
    chunk_rows: int | None = None,
    progress: bool = False,
    compile: bool | str = False,
    by_component: bool = False,
) -> Chunks:
    """A function's values for chunks of data (rows) and of draws (columns).

    Args:
        vae: the pair.
        x: data.
        num_particles: draws for each datum.
        function: called in evaluation mode, without gradients.
        seed: of the draws; None draws from the caller's random state.
        chunk_rows: datum-draws at a time; sized to memory by default.
        progress: show a progress bar.
        compile: whether the function is compiled for the chunks of full size; `auto` for
            much work on the CPU, where it can be.
        by_component: the function draws from each component of a mixture.

    Raises:
        UserError: for data that the likelihood cannot score, for numbers below one, and
            where the pair cannot be compiled and was to be.
    """
    if not (isinstance(compile, bool) or compile == "auto"):
        raise UserError(f"compile: expected True, False or 'auto', got {compile!r}")
    rows = None if chunk_rows is None else count("chunk_rows", chunk_rows)
    model, guide, x, device = sides_and_data(vae, x)
    with evaluating(model, guide, device, seed):
        rows = rows or chunk_rows_for(model, guide, x[:2].to(device), by_component)
        size, step = chunk_sizes(len(x), num_particles, rows)
        parameters = sum(p.numel() for s in (model, guide) for p in s.parameters())
        work = len(x) * num_particles * parameters
        much = work >= WORK_WORTH_COMPILING.get(device.type, math.inf)
        with tqdm(total=len(x), desc="evaluate", disable=not progress) as bar:
            compiled = None
            if compile is True or (compile == "auto" and much):
                bar.set_description("evaluate: compiling")
                example = x[:size].to(device)
                must = compile is True
                compiled = _compiled(function, model, guide, example, step, must)
                bar.set_description("evaluate")
            for i, rows_of in zip(range(0, len(x), size), x.split(size), strict=True):
                batch = rows_of.to(device)
                for j in range(0, num_particles, step):
                    draws = min(step, num_particles - j)
                    if compiled is not None and (len(batch), draws) == (size, step):
                        values = compiled(batch)
                    else:
                        values = function(model, guide, batch, draws)
                    yield slice(i, i + len(batch)), slice(j, j + draws), values
                bar.update(len(batch))


def stream_over_ranks(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Tensor | np.ndarray,
    num_particles: int,
    function: ChunkFunction,
    *,
    seed: int | None,
    chunk_rows: int | None = None,
    progress: bool = False,
    compile: bool | str = False,
    by_component: bool = False,
) -> Chunks:
    """`stream`, for which each of several processes takes a part of the data.

    All of them get all chunks, on the CPU and in the order of the data.
    """
    ranks = Ranks()
    how = partial(stream, vae, num_particles=num_particles, function=function)
    how = partial(
        how, chunk_rows=chunk_rows, compile=compile, by_component=by_component
    )
    if not ranks.several:
        yield from how(x=x, seed=seed, progress=progress)
        return
    rows = ranks.share(torch.arange(len(x)))
    mine = []
    if len(rows):
        first, last = int(rows[0]), int(rows[-1])
        own_seed = None if seed is None else ranks.seed(seed)
        shown = progress and ranks.is_first
        own = part(x, slice(first, last + 1))
        chunks = how(x=own, seed=own_seed, progress=shown)
        mine = [(_moved(r, first), draws, _on_cpu(v)) for r, draws, v in chunks]
    everyones = chain.from_iterable(ranks.gather(mine))
    yield from sorted(everyones, key=lambda chunk: (chunk[0].start, chunk[1].start))


def _moved(rows: slice, by: int) -> slice:
    return slice(rows.start + by, rows.stop + by)


def _on_cpu(values: dict) -> dict:
    return tree_map_only(Tensor, Tensor.cpu, values)


def chunk_sizes(num_data: int, num_particles: int, rows: int) -> tuple[int, int]:
    """The numbers of data and of draws of each in a chunk of so many rows at most.

    The draws are shared out evenly, so that nearly all chunks have the same shape.

    >>> chunk_sizes(10_000, 1000, 8000)
    (32, 250)
    """
    most = min(num_particles, PARTICLES_PER_CHUNK, rows)
    parts = -(-num_particles // most)
    step = -(-num_particles // parts)
    return max(min(rows // step, num_data), 1), step


def _compiled(
    function: ChunkFunction,
    model: nn.Module,
    guide: nn.Module,
    example: Tensor,
    draws: int,
    must: bool,
) -> Callable[[Tensor], dict] | None:
    """The function compiled for data like the example; None where it cannot be."""
    devices = [example.device] if example.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # a graph checks no values
        function(model, guide, example[:2], draws)
    places = TensorPlaces(model=model, guide=guide)
    tensors = places.tensors()
    pair = Pair(function, model, guide)
    layout: list[
        Any
    ] = []  # of a chunk's values: their tree, and those that are no tensors

    def computed(*inputs: Tensor) -> list[Tensor]:
        *rest, x = inputs
        values = dict(zip(tensors, rest, strict=True))
        out = pair.call_with(places.by_all_names(values), x, draws)
        leaves, tree = tree_flatten(out)
        layout[:] = tree, [None if isinstance(v, Tensor) else v for v in leaves]
        return [v for v in leaves if isinstance(v, Tensor)]

    inputs = [*(p.detach() for p in tensors.values()), example]
    try:
        graph = trace(computed, inputs, "evaluate it with compile=False")
        run = inductor(graph, inputs)
    except UserError as error:
        if must:
            raise
        warnings.warn(f"evaluated without compiling: {error}", stacklevel=4)
        return None
    tree, constants = layout

    def compiled(x: Tensor) -> dict:
        found = iter(run(*inputs[:-1], x.contiguous()))
        leaves = [next(found) if v is None else v for v in constants]
        return tree_unflatten(leaves, tree)

    return compiled


def chunk_rows_for(
    model: nn.Module, guide: nn.Module, probe: Tensor, by_component: bool = False
) -> int:
    """The number of datum-draws that fit in memory, judged by a small run."""
    draws = 64
    terms = partial(bound_terms, model, guide, probe, draws, scaled=False)
    run = partial(terms, by_component=by_component)
    return rows_that_fit(run, draws * len(probe), probe.device)
