"""Steps of Adam on the CPU: without its bookkeeping, and without denormal numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["FusedAdam", "clear_denormals", "is_watched"]

_STEPS_BETWEEN = 150
# In so many steps 1e-30 shrinks by 0.9 a step to 1e-37, and 1e-34 by 0.999 to 9e-35: both
# are normal numbers still. Beside 1e-9 and more the root of 1e-34 is nothing.
_NOTHING = {"exp_avg": 1e-30, "exp_avg_sq": 1e-34}
_LEAST_EPS = 1e-9


class FusedAdam:
    """Moves the weights by an optimiser's own kernel, settings and state.

    `Adam.step` looks at each parameter in Python and counts its steps one by one, which in
    a small network takes as long as to move the weights. Here the lists are made once, and
    one addition counts all steps. The weights are the same to the last bit, and the state
    stays the optimiser's: both may be used by turns.

    Args:
        optimizer: one that `knows` and that has made a step.
        parameters: those of its that have a gradient.

    >>> p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    >>> for each in (p, q):
    ...     each.grad = torch.tensor([1.0, -2.0, 0.5])
    >>> ours, theirs = (torch.optim.Adam([each], fused=True) for each in (p, q))
    >>> ours.step()
    >>> move = FusedAdam(ours, [p])
    >>> move(), move(), theirs.step(), theirs.step(), theirs.step()
    (None, None, None, None, None)
    >>> torch.equal(p, q), ours.state[p]["step"].item()
    (True, 3.0)
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]
    ) -> None:
        (self.group,) = optimizer.param_groups
        own = {id(p) for p in self.group["params"]}
        self.parameters = [p for p in parameters if id(p) in own]
        states = [optimizer.state[p] for p in self.parameters]
        self.weights = [p.detach() for p in self.parameters]
        self.averages = [state["exp_avg"] for state in states]
        self.squares = [state["exp_avg_sq"] for state in states]
        self.count = torch.stack([state["step"] for state in states])
        self.steps = list(self.count.unbind())
        for state, step in zip(states, self.steps, strict=True):
            state["step"] = step

    @staticmethod
    def knows(optimizer: torch.optim.Optimizer) -> bool:
        """True for a fused Adam of the CPU that nobody watches, and of one group."""
        (group, *others) = optimizer.param_groups
        if type(optimizer) is not torch.optim.Adam or others or is_watched(optimizer):
            return False
        plain = not (group["amsgrad"] or group["weight_decay"] or group["maximize"])
        on_cpu = all(p.device.type == "cpu" for p in group["params"])
        return bool(group["fused"]) and plain and on_cpu

    @torch.no_grad()
    def __call__(self) -> None:
        """One step by the gradients of now."""
        self.count.add_(1)
        beta1, beta2 = self.group["betas"]
        torch._fused_adam_(
            self.weights,
            [p.grad for p in self.parameters if p.grad is not None],
            self.averages,
            self.squares,
            [],
            self.steps,
            lr=self.group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=self.group["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=None,
            found_inf=None,
        )


@torch.no_grad()
def clear_denormals(optimizer: torch.optim.Optimizer) -> None:
    """Set averages of Adam's that are as good as 0 to 0, at each 150th of its steps.

    The averages of a weight that no gradient reaches any more, as of a unit that is never
    active, shrink to numbers below float32's smallest normal one, 1e-38, and stay there: a
    processor is many times slower at these. They are cleared before, where they move no
    weight any more. Other optimisers, and those on a GPU, which is as quick at these, are
    left alone.

    >>> p = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = torch.optim.Adam([p])
    >>> for i in range(150):
    ...     p.grad = torch.tensor([1.0, 1e-25 * (i == 0)])
    ...     optimizer.step()
    >>> clear_denormals(optimizer)
    >>> (optimizer.state[p]["exp_avg"] > 0).tolist()
    [True, False]
    """
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        return
    for group in optimizer.param_groups:
        states = (optimizer.state[p] for p in group["params"] if p in optimizer.state)
        first = next(states, None)
        if first is None or group["eps"] < _LEAST_EPS:
            continue
        if first["exp_avg"].is_cuda or first["step"] % _STEPS_BETWEEN:
            continue
        for state in (first, *states):
            for name, least in _NOTHING.items():
                state[name].masked_fill_(state[name].abs() < least, 0.0)


def is_watched(optimizer: torch.optim.Optimizer) -> bool:
    """True where hooks are to be called at each step of an optimiser."""
    pre, post = (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
    )
    return bool(pre or post)
