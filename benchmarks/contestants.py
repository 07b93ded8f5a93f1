"""The contestants of `svi_step.py` and `time_to_bound.py`: who trains a pair, and how.

Each is a function of a pair, its data and the epochs to train. It trains in its own loop,
as who uses it would write it, and tells the loss of what it has trained:

    for order in epochs:  # a row of indices for each step
        for index in order:
            epochs.loss += step(data[index])

Going on to the next order is what stops and starts the clock.
"""

import time
import warnings
from functools import partial

import by_hand
import pyro
import torch
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference.precision import has_bfloat16
from pyro_vae_zoo.runtime import Ranks
from pyro_vae_zoo.training.options import TrainOptions
from pyro_vae_zoo.training.steps import Steps

NETWORKS = {
    "mean_field": ("mean_field", {}),
    "iaf_2": ("iaf", {"num_flows": 2}),
    "iaf_10": ("iaf", {"num_flows": 10}),
    "planar_10": ("planar", {"num_flows": 10}),
    "self_reflective": ("self_reflective", {}),
    "gated_dag_iaf": ("gated_dag_iaf", {}),
}
WRITTEN_BY_HAND = ("mean_field", *by_hand.STEPS)  # guides
LR = TrainOptions.lr


def each_step(step, data, epochs):
    """Train by a function of a batch, which returns its loss."""
    for order in epochs:
        for index in order:
            epochs.loss += float(step(data[index]))


def svi(elbo, vae, data, epochs):
    """Pyro as it comes."""
    loop = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": LR}), elbo)
    each_step(loop.step, data, epochs)


def jit(vae, data, epochs):
    """Pyro with TorchScript, which knows no other batch size than its first."""
    elbo = JitTrace_ELBO(max_plate_nesting=1, ignore_jit_warnings=True)
    with torch.random.fork_rng():  # it draws while it traces
        elbo.differentiable_loss(vae.model, vae.guide, data[: epochs.batch_size])
    svi(elbo, vae, data, epochs)


def adam_steps(module, loss, data, epochs):
    """A loop in plain PyTorch with its fused Adam."""
    adam = torch.optim.Adam(module.parameters(), lr=LR, fused=True)

    def step(x):
        adam.zero_grad()
        value = loss(x)
        value.backward()
        adam.step()
        return value.detach()

    each_step(step, data, epochs)


def hand(vae, data, epochs, compiled=False, autocast=False):
    """The same maths in plain PyTorch, no Pyro."""
    if autocast:
        check_bfloat16(data.device)
    pair = by_hand.ByHand(vae, autocast)
    loss = torch.compile(pair, dynamic=False) if compiled else pair
    adam_steps(pair, loss, data, epochs)


def check_bfloat16(device):
    """Refuse what would emulate it, and take a hundred times as long."""
    if not has_bfloat16(device):
        raise NotImplementedError("this processor has no bfloat16")


def lightning(vae, data, epochs):
    """The code by hand in a `LightningModule`, with Lightning's loop."""
    from lightning.pytorch import LightningModule, Trainer
    from torch.utils.data import DataLoader

    orders = iter(epochs)

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.pair = by_hand.ByHand(vae)

        def train_dataloader(self):
            order = next(orders, None)
            self.trainer.should_stop = order is None
            batches = [data[index] for index in order] if order is not None else []
            return DataLoader(batches, batch_size=None)  # a list would be of loaders

        def training_step(self, batch, _):
            loss = self.pair(batch)
            epochs.loss += float(loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=LR, fused=True)

    off = ("logger", "enable_checkpointing", "enable_progress_bar")
    quiet = dict.fromkeys((*off, "enable_model_summary"), False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of batches without a DataLoader
        Trainer(
            max_epochs=-1,
            accelerator="gpu" if data.is_cuda else "cpu",
            reload_dataloaders_every_n_epochs=1,
            **quiet,
        ).fit(Module())


def drop_in(vae, data, epochs):
    """`CompiledTrace_ELBO` in a loop of the user's."""
    elbo = zoo.CompiledTrace_ELBO()
    with pyro.validation_enabled(False):
        adam_steps(vae, elbo(vae.model, vae.guide), data, epochs)


def ours(vae, data, epochs, precision="float32"):
    """The steps that `fit` takes."""
    if precision == "bf16":
        check_bfloat16(data.device)
    options = TrainOptions(batch_size=epochs.batch_size, epochs=1, ema=0)
    steps = Steps(
        vae,
        vae.phases[0],
        options,
        Ranks(),
        epochs.batch_size,
        precision=precision,
    )
    weights = {"kl_weight": 1.0, "joint_weight": 1.0}
    with pyro.validation_enabled(False):
        steps.compile(data[: epochs.batch_size], must=True)
        for order in epochs:
            steps.begin_epoch(0)
            elbo_sum = 0.0
            for done, index in enumerate(order):
                elbo_sum += (
                    steps.take(data.index_select(0, index), weights, 0.0, 0.0, done)
                    or 0.0
                )
            epochs.loss -= steps.wait()[0] if steps.waiting else elbo_sum


def numpyro(scan, vae, data, epochs):
    """The pair in NumPyro: a jitted `update` a step, or a jitted scan of an epoch."""
    import in_numpyro

    in_numpyro.check(vae, data[: epochs.batch_size], LR, tolerance=1e-4)
    epochs.start = time.perf_counter()  # a check is charged to nobody
    in_numpyro.train(vae, data, epochs, LR, scan)


def contestants(guide):
    """Those that train a guide, by name."""
    found = {
        "SVI": partial(svi, Trace_ELBO(max_plate_nesting=1)),
        "JIT": jit,
        "drop-in": drop_in,
        "ours": ours,
        "ours+bf16": partial(ours, precision="bf16"),
    }
    if guide in WRITTEN_BY_HAND:
        found |= {
            "hand": hand,
            "hand+c": partial(hand, compiled=True),
            "hand+bf16": partial(hand, compiled=True, autocast=True),
            "Lightning": lightning,
            "update": partial(numpyro, False),
            "scan": partial(numpyro, True),
        }
    return found
