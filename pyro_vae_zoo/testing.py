"""The contract of a pair as a function: `check_vae(vae, x)`.

For the zoo's own guides and for yours. Each property is a function of its own; one
that does not hold raises `AssertionError` with a sentence that says what is wrong.
The VAE is left as it was: everything runs on copies.
"""

import copy
import math
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]  # Pyro makes it on import
from torch import Tensor

from pyro_vae_zoo.errors import UserError, one_line
from pyro_vae_zoo.inference.terms import bound_terms
from pyro_vae_zoo.models.priors import check_prior
from pyro_vae_zoo.models.standard import StandardModel
from pyro_vae_zoo.pair.sites import (
    check_whole_plates,
    data_sites,
    in_data_plate,
    is_real,
    latent_sites,
)
from pyro_vae_zoo.pair.vae import VAE

__all__ = ["check_vae"]


def check_vae(vae: VAE, x: Tensor) -> None:
    """Check all that the zoo, stock Pyro and a user rely on.

    Args:
        vae: the pair.
        x: some four to a hundred data that the model can score, on its device.

    Raises:
        AssertionError: at the first property that does not hold.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("planar", event_shape=(2, 3), latent_dim=2, hidden_dims=(8,))
    >>> check_vae(vae, torch.ones(8, 2, 3).bernoulli())
    """
    _require(len(x) >= 4, f"check_vae needs at least 4 data, got {len(x)}")
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        # Pyro says of each frozen parameter that it is frozen.
        warnings.filterwarnings("ignore", ".*not registered in the param store")
        for check in (
            check_parts,
            check_sites,
            check_shapes,
            check_matches_trace_elbo,
            check_generates,
            check_independence,
            check_gradients,
            check_density,
            check_copies,
            check_stock_svi,
        ):
            torch.manual_seed(0)
            try:
                check(_copy(vae), x)
            except AssertionError:
                raise
            except Exception as error:  # Pyro refuses some pairs by itself
                raise AssertionError(
                    f"{check.__name__}: the pair does not run: {one_line(error)}"
                ) from error


def _require(holds: bool, message: str) -> None:
    """An `assert` that `python -O` does not remove."""
    if not holds:
        raise AssertionError(message)


def check_parts(vae: VAE, x: Tensor) -> None:
    """A `StandardModel`: one prior for all data, a likelihood of a datum's shape."""
    if not isinstance(vae.model, StandardModel):
        return
    prior, decoder = vae.model.prior, vae.model.decoder
    try:
        check_prior(prior, vae.model.latent_dim)
    except UserError as error:
        raise AssertionError(str(error)) from error
    p = vae.model.likelihood(decoder(prior().sample((len(x),))))
    got, expected = tuple(p.event_shape), tuple(x.shape[1:])
    _require(
        got == expected,
        f"the likelihood of data of event shape {expected} has event shape {got}; is "
        f"`.to_event({len(expected)})` missing?",
    )


def check_sites(vae: VAE, x: Tensor) -> None:
    """Both sides draw the same latent sites, alike in shape and in the data plate."""
    guide_trace = poutine.trace(vae.guide).get_trace(x)
    replayed = poutine.replay(vae.model, trace=guide_trace)
    model_trace = poutine.trace(replayed).get_trace(x)
    q, p = latent_sites(guide_trace), latent_sites(model_trace)
    _require(q.keys() == p.keys(), f"guide draws {sorted(q)}, model draws {sorted(p)}")
    idle = not q and len(list(vae.guide.parameters())) > 0
    _require(not idle, "there is no latent site, yet the guide has parameters")
    for name, site in q.items():
        has_density = not _is_delta(site["fn"]) or _is_delta(p[name]["fn"])
        _require(
            has_density,
            f"site {name!r}: the guide draws it from a Delta, which has no density by "
            "which p(x) could be estimated",
        )
        _require(
            site["fn"].event_shape == p[name]["fn"].event_shape,
            f"site {name!r} has event shape {tuple(site['fn'].event_shape)} in the guide "
            f"and {tuple(p[name]['fn'].event_shape)} in the model",
        )
        for side, s in (("guide", site), ("model", p[name])):
            plates = [frame.name for frame in s["cond_indep_stack"]]
            shared = not plates and not p[name]["cond_indep_stack"]
            _require(
                "data" in plates or shared,
                f"site {name!r} of the {side} lies outside pyro.plate('data', len(x))",
            )
    observed = [s for s in data_sites(model_trace).values() if s["is_observed"]]
    _require(len(observed) > 0, "the model observes no site 'x'")
    for trace in (guide_trace, model_trace):
        try:
            check_whole_plates(trace)
        except UserError as error:
            raise AssertionError(str(error)) from error


def check_shapes(vae: VAE, x: Tensor) -> None:
    """One log-weight for each particle and datum, with and without particles."""
    for num_particles in (1, 3):
        weights = bound_terms(vae.model, vae.guide, x, num_particles).log_weights
        expected = (num_particles, len(x))
        got = tuple(weights.shape)
        _require(got == expected, f"log-weights: expected shape {expected}, got {got}")
        _require(bool(weights.isfinite().all()), "a log-weight is not finite")
    _require(
        vae.sample(2).shape == (2, *vae.event_shape), "vae.sample gives a wrong shape"
    )
    _require(vae.reconstruct(x).shape == x.shape, "vae.reconstruct gives a wrong shape")


def check_matches_trace_elbo(vae: VAE, x: Tensor) -> None:
    """One particle of `bound_terms` is what Pyro's `Trace_ELBO` computes."""
    torch.manual_seed(1)
    ours = bound_terms(vae.model, vae.guide, x).log_weights.sum().item()
    torch.manual_seed(1)
    theirs = -Trace_ELBO().loss(vae.model, vae.guide, x)
    close = math.isclose(ours, theirs, rel_tol=1e-4, abs_tol=1e-4)
    _require(close, f"the bound is {ours} by its terms and {theirs} by Trace_ELBO")


def check_generates(vae: VAE, x: Tensor) -> None:
    """Without observations the model reads neither the values of x nor the guide."""
    draws = []
    stand_ins = torch.zeros_like(x), torch.full_like(x, 1e3), torch.randn_like(x)
    for stand_in in stand_ins:
        torch.manual_seed(2)
        trace = poutine.trace(poutine.uncondition(vae.model)).get_trace(stand_in)
        sites = latent_sites(trace) | data_sites(trace)
        draws.append({n: s["value"] for n, s in sites.items()})
    for name, value in draws[0].items():
        reason = "the model reads the values of x, so it cannot generate"
        same = all(torch.equal(value, others[name]) for others in draws[1:])
        _require(same, f"site {name!r}: {reason}")


def check_independence(vae: VAE, x: Tensor) -> None:
    """The weights of one datum do not depend on the others in its batch."""
    # Real data, with other statistics, and a row that is drawn first: how much noise
    # those after it take, by rejection for one, is their affair.
    rest = [x[i : i + 1].expand_as(x[1:]) for i in (1, len(x) - 1)]
    batches = [x, *(torch.cat([x[:1], rows]) for rows in rest)]
    for training in (False, True):  # batch normalisation depends in training only
        vae.train(training)
        for seed in range(4):
            found = []
            for batch in batches:
                torch.manual_seed(seed)
                found.append(_log_weights(vae, batch, 1)[:, 0])
            first, *others = found
            same = all(torch.allclose(first, o, rtol=1e-4, atol=1e-4) for o in others)
            _require(same, "the weights of x[0] change with the rest of the batch")


def check_gradients(vae: VAE, x: Tensor) -> None:
    """Every parameter that is not frozen gets a finite gradient."""
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).backward()
    for name, p in _trained(vae):
        if p.grad is None:
            raise AssertionError(f"parameter {name} gets no gradient")
        finite = bool(p.grad.isfinite().all())
        _require(finite, f"the gradient of {name} is not finite")


@torch.no_grad()
def check_density(vae: VAE, x: Tensor) -> None:
    """The density of a guide's real latents integrates to one, given a draw of all others.

    The mean of r(z) / q(z|x) over draws of q is one for every density r that is zero where
    q is. Here r is a Gaussian inside a mode of q: narrower than the tenth of other draws
    that is nearest to one of them. Where few draws have weight nothing is said, which is
    so from some fifteen latents on, nor is it of an error of less than 0.2.
    """
    data, draws = x[:8], 4000
    guide_trace = poutine.trace(vae.guide).get_trace(data)
    replayed = poutine.replay(vae.model, trace=guide_trace)
    of_model = latent_sites(poutine.trace(replayed).get_trace(data))
    drawn = {
        k: s for k, s in latent_sites(guide_trace).items() if not _is_delta(s["fn"])
    }
    real = {k: s for k, s in drawn.items() if in_data_plate(s) and is_real(s)}
    size = sum(s["fn"].event_shape.numel() for s in real.values())
    if not 0 < size <= 20:
        return
    others = {k: s["value"] for k, s in drawn.items() if k not in real}
    with pyro.plate("particles", draws, dim=-2):
        given = poutine.condition(vae.guide, data=others)
        sites = latent_sites(poutine.trace(given).get_trace(data))
    shape = draws, len(data)
    z = torch.cat([sites[k]["value"].reshape(*shape, -1) for k in real], -1).double()
    log_q = z.new_zeros(shape)
    for name in real:
        log_prob = sites[name]["fn"].log_prob(sites[name]["value"])
        # What both sides leave out by a mask is no density's affair; nor is a scale.
        mask = sites[name]["mask"] if of_model[name]["mask"] is None else None
        log_q += scale_and_mask(log_prob, 1.0, mask).expand(shape)
    ratios = _inside(z[: draws // 2]).log_prob(z[draws // 2 :]) - log_q[draws // 2 :]
    ratios = ratios.exp()
    ratios = ratios[:, ratios.sum(0).square() > 50 * ratios.square().sum(0)]
    if not ratios.numel():
        return
    mass = ratios.mean().item()
    error = (ratios.var(0).mean() / ratios.numel()).sqrt().item()
    _require(
        abs(mass - 1) < max(0.2, 6 * error),
        f"the density of the guide's latents integrates to {1 / mass:.3g} in place of 1; "
        "is a log-determinant or a site's score missing or wrong?",
    )


def _inside(z: Tensor) -> dist.TorchDistribution:
    """A Gaussian for each datum, narrower than the tenth of its draws nearest to one."""
    away = ((z - z[0]) / z.std(0)).square().sum(-1)
    near = away.topk(len(z) // 10, dim=0, largest=False).indices
    around = z.gather(0, near[..., None].expand(*near.shape, z.shape[-1]))
    off = around - around.mean(0)
    spread = torch.einsum("knd,kne->nde", off, off) / (len(near) - 1)
    return dist.MultivariateNormal(around.mean(0), 0.7 * spread)


def check_copies(vae: VAE, x: Tensor) -> None:
    """`state_dict` and `deepcopy` work after a training step."""
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).backward()
    optimizer.step()
    before = _seeded_weights(vae, x)
    clone = copy.deepcopy(vae)
    same = torch.equal(_seeded_weights(clone, x), before)
    _require(same, "a deepcopy has other log-weights")
    state = {name: t.clone() for name, t in vae.state_dict().items()}
    with torch.no_grad():
        for p in vae.parameters():
            p.add_(0.1)
    same = torch.equal(_seeded_weights(vae, x), before)
    _require(not same, "the log-weights do not depend on the parameters")
    same = torch.equal(_seeded_weights(clone, x), before)
    _require(same, "a deepcopy shares parameters with the pair")
    vae.load_state_dict(state)
    after = _seeded_weights(vae, x)
    _require(torch.equal(after, before), "load_state_dict does not restore the pair")


def check_stock_svi(vae: VAE, x: Tensor) -> None:
    """Stock `SVI` trains two pairs side by side, each for itself, and improves one."""
    pairs = [vae, copy.deepcopy(vae)]
    start = _bound(vae, x)
    is_exact = bool((_log_weights(vae, x, 16).std(0) < 1e-4).all())  # q is p(z|x)
    for i, (pair, num_steps) in enumerate(zip(pairs, (40, 3), strict=True)):
        before = [p.detach().clone() for p in pair.parameters()]
        has_gradient = _has_gradient(pair, x)
        bystander = [p.detach().clone() for p in pairs[1 - i].parameters()]
        optimizer = Adam({"lr": 3e-3})
        svi = SVI(pair.model, pair.guide, optimizer, Trace_ELBO())
        for _ in range(num_steps):
            svi.step(x)
        for (name, p), old in zip(pair.named_parameters(), before, strict=True):
            moved = not torch.equal(p, old)
            hint = (
                ""
                if p.is_contiguous()
                else (
                    ": Pyro's store trains a contiguous copy of it; make it contiguous"
                )
            )
            _require(
                moved or name not in has_gradient, f"SVI does not train {name}{hint}"
            )
        for p, old in zip(pairs[1 - i].parameters(), bystander, strict=True):
            same = torch.equal(p, old)
            _require(same, "training one pair moves another's parameters")
    improves = is_exact or _bound(vae, x) > start
    _require(improves, "40 steps of SVI do not improve the bound")


def _is_delta(fn: Any) -> bool:
    """True for a Delta, whatever has been made of it."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def _has_gradient(vae: VAE, x: Tensor) -> set[str]:
    """Names of the parameters whose gradient is not zero throughout."""
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).backward()
    names = {n for n, p in _trained(vae) if p.grad is not None and p.grad.any()}
    vae.zero_grad()
    return names


def _trained(vae: VAE) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in vae.named_parameters() if p.requires_grad]


def _copy(vae: VAE) -> VAE:
    clone = copy.deepcopy(vae)
    clone.zero_grad()
    return clone.train()


@torch.no_grad()
def _log_weights(vae: VAE, x: Tensor, num_particles: int) -> Tensor:
    return bound_terms(vae.model, vae.guide, x, num_particles).log_weights


def _seeded_weights(vae: VAE, x: Tensor) -> Tensor:
    torch.manual_seed(4)
    return _log_weights(vae, x, 2)


def _bound(vae: VAE, x: Tensor) -> float:
    torch.manual_seed(5)
    return _log_weights(vae, x, 64).mean().item()
