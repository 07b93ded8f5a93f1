"""The pairs of `svi_step.py` in plain PyTorch: no Pyro, densities written out.

A `ByHand` takes over the modules of one of the zoo's pairs, so that it starts from the
same weights and trains as many. The maths is the zoo's: the masks and gates of an IAF,
amortised and constrained planar maps, one draw in place of each expectation.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from pyro_vae_zoo.transforms.conditioning import unit
from pyro_vae_zoo.transforms.planar import LIMIT

SOFTPLUS_OF_ONE = 0.5413248546129181  # log(e - 1): where softplus is one
MIN_SCALE = 1e-6


class Gated(nn.Module):
    """z <- g z + (1 - g) m, both g and m from a masked network of z and h."""

    def __init__(self, step):
        super().__init__()
        made = step.nn
        self.hidden, self.out = made.layers
        self.context = made.context_layer
        self.hidden_mask, self.out_mask = made.mask_0, made.mask_1
        self.gate_bias = step.kwargs["sigmoid_bias"]

    def forward(self, z, h):
        """The image of z given h, and the log-determinants summed over the batch."""
        a = F.linear(z, self.hidden.weight * self.hidden_mask, self.hidden.bias)
        a = F.elu(a + self.context(h))
        out = F.linear(a, self.out.weight * self.out_mask, self.out.bias)
        mean, logit = out.chunk(2, dim=-1)
        logit = logit + self.gate_bias
        gate = torch.sigmoid(logit)
        return gate * z + (1 - gate) * mean, F.logsigmoid(logit).sum()


class Planar(nn.Module):
    """z <- z + u tanh(w.z + b) with b, u and w linear in h, and w.u > -1."""

    def __init__(self, step):
        super().__init__()
        self.weight, self.bias = step.nn.weight, step.nn.bias

    def forward(self, z, h):
        """The image of z given h, and the log-determinants summed over the batch."""
        dim = z.shape[-1]
        b, u, w = F.linear(h, self.weight, self.bias).split([1, dim, dim], dim=-1)
        direction = unit(w)
        a = (w * u).sum(-1, keepdim=True)
        excess = (-a).relu() / LIMIT
        along = (direction * u).sum(-1, keepdim=True) * direction
        u = u - excess / (1 + excess) * along
        bend = torch.tanh((w * z).sum(-1, keepdim=True) + b)
        log_det = torch.log1p((1 - bend.square()) * (a / (1 + excess)))
        return z + u * bend, log_det.sum()


STEPS = {"iaf": Gated, "planar": Planar}


class ByHand(nn.Module):
    """A batch of images to the negative bound of one draw, summed over the batch.

    With `autocast` all networks multiply in bfloat16, as PyTorch's autocast has them; the
    bound is summed in float32.
    """

    def __init__(self, vae, autocast=False):
        super().__init__()
        self.autocast = autocast
        posterior = vae.guide.posterior
        self.encoder, self.decoder = vae.guide.encoder, vae.model.decoder
        self.base, self.flows = getattr(posterior, "base", posterior).linear, ()
        if hasattr(posterior, "flows"):
            step = STEPS[vae.config["guide"]]
            self.flows = nn.ModuleList(map(step, posterior.flows))

    def forward(self, x):
        """The negative bound."""
        low = partial(
            torch.autocast, x.device.type, torch.bfloat16, enabled=self.autocast
        )
        with low():
            h = self.encoder(x)
            base = self.base(h)
        loc, raw = base.float().chunk(2, dim=-1)
        scale = F.softplus(raw + SOFTPLUS_OF_ONE) + MIN_SCALE
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        # log q(z|x) - log p(z), whose constants cancel
        difference = -scale.log().sum() - 0.5 * noise.square().sum()
        for step in self.flows:
            with low():
                z, log_det = step(z, h)
            difference = difference - log_det
        difference = difference + 0.5 * z.square().sum()
        with low():
            logits = self.decoder(z)
        return F.softplus((1 - 2 * x.flatten(1)) * logits.float()).sum() + difference
