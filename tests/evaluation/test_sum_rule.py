"""The estimator is unbiased for p(x): over all images there are, it sums to one."""

import itertools

import pytest
import torch
from pairs import (
    FAMILIES,
    pairs_of_both,
    perturb,
    quick,
    small,
    with_prior,
)

import pyro_vae_zoo as zoo

IMAGES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6))).reshape(-1, 2, 3)


# Of each family one, but for the graphs, whose gates take many draws, and one more kind of
# flow; the flows' own densities are checked in tests/transforms.
IN_CI = (*[name for name in FAMILIES if name != "gated_dag"], "spline_coupling")


@pytest.mark.parametrize("name", quick(zoo.list_guides(), *IN_CI))
def test_probabilities_of_all_images_sum_to_one(name):
    check_sum(small(name))


@pytest.mark.parametrize(
    "both", quick(pairs_of_both(), "flow:mean_field", "vamp:mean_field")
)
def test_they_do_under_every_prior(both):
    prior, guide = both.split(":")
    vae = with_prior(prior, guide)
    start = [p.detach().clone() for p in vae.model.prior.parameters()]
    check_sum(vae)
    assert not all(map(torch.equal, start, vae.model.prior.parameters()))


def check_sum(vae):
    """Train a pair of six pixels, and sum over all images."""
    # Rows mostly repeat themselves, so that z says much and the flows are used.
    agree = (IMAGES[:, 0] == IMAGES[:, 1]).sum(-1)
    x = IMAGES[torch.multinomial(8.0**agree, 300, replacement=True)]
    x = torch.cat([x, IMAGES])
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-2)
    loss = zoo.AnnealedELBO()
    for step in range(200):
        loss.kl_weight = 0.2 if step < 100 else 1.0  # z says something, then learn q
        optimizer.zero_grad()
        (loss.differentiable_loss(vae.model, vae.guide, x) / len(x)).backward()
        optimizer.step()
    perturb(vae.guide, 0.05)  # away from wherever a flow's terms may cancel

    # One image at a time: the errors of the 64 estimates are independent, even where all
    # data of a chunk have a draw in common, as the gates of a graph.
    how, particles = {}, 20_000
    if "structure" in zoo.guide_options(vae.config["guide"]):
        how, particles = {"chunk_rows": 256}, 3_000
    for more in (1, 4, 16):  # a q that fits less well takes more of them
        ll = zoo.log_likelihood(vae, IMAGES, num_particles=more * particles, **how)
        p = ll.log_prob.exp()
        error = (p * ll.std_error).square().sum().sqrt()
        if 4 * error < 0.02:
            break
    assert 4 * error < 0.02, error
    assert abs(p.sum() - 1) < 0.02
    assert zoo.evaluate(vae, x, 30).kl > 0.2  # z is used, and q not the prior
