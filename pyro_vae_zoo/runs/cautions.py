"""Cautions about a result, and what is to be done about each.

| name       | said where                                                                |
|------------|---------------------------------------------------------------------------|
| `absurd`   | log p(x) is below that of a model without latents, by three errors        |
| `scale`    | data of a Gaussian likelihood are far from mean 0 and scale 1             |
| `collapse` | the KL is below 0.1 nats, or fewer than a tenth of the latents are active |
| `ess`      | of ten particles or more the effective number is below 2                  |
| `rising`   | the validation ELBO rose over the last fifth of the epochs, by more than   |
|            | 0.5 % of its size and three times its scatter about a line                |
| `fell`     | in the last epoch the training ELBO is below its best by more than a      |
|            | quarter of that one's size, and by more than 10 nats                       |
| `overfits` | the best epoch is in the first two thirds, and the last fifth of the       |
|            | validation ELBOs lies below it by more than 1 % and three times its noise |

"Without latents" is `references.baseline`, what the decoder can do by its biases alone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.streamed.rows import some
from pyro_vae_zoo.runs.references import has_own_likelihood

__all__ = ["OF_TRAINING", "cautions_of"]

OF_TRAINING = ("rising", "fell", "overfits")  # which an evaluation cannot see again

_ENOUGH = 10_000  # data, of those that are not in memory
_ERRORS = 3  # standard errors by which a fit is worse than none
_FAR, _SMALL = 5.0, 0.05  # from mean 0 and scale 1; of a scale
_UNEQUAL = 10.0  # times the scale of the middle feature
_LITTLE_KL, _FEW_UNITS = 0.1, 0.1  # nats, share of the latents
_FEW_DRAWS, _ONE_DRAW = 10, 2.0
_SHARE, _SIZE, _LEAST, _SCATTER = 5, 0.005, 0.05, 3.0  # of epochs, of a rise
_FALL, _QUARTER = 10.0, 0.25  # nats; of the size of the best training ELBO
_EARLY, _BELOW = 2 / 3, 0.01  # of the epochs; of the size of the best ELBO


def cautions_of(
    result: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]] = (),
    data: Dataset | None = None,
) -> dict[str, str]:
    """Sentences by the names of the table above; none for a result in order.

    Args:
        result: as in `result.json`; its references are needed for `absurd`.
        records: of the epochs, as in `metrics.jsonl`; needed for `rising`, `fell` and
            `overfits`.
        data: the data set; needed for `scale`.

    >>> result = {"kl_per_site": {"z": 0.01}, "kl": 0.01, "active_units": {"z": "0/8"}}
    >>> list(cautions_of(result))
    ['collapse']
    """
    found = {
        "absurd": _absurd(result),
        "scale": None if _has_scales(result) else _scale(data),
        "collapse": _collapse(result),
        "ess": _ess(result),
        "rising": _rising(result, records),
        "fell": _fell(result, records),
    }
    if not found["fell"]:
        found["overfits"] = _overfits(result, records)
    return {name: text for name, text in found.items() if text}


def _absurd(result: Mapping[str, Any]) -> str | None:
    reference = result.get("references", {}).get("independent")
    if reference is None:
        return None
    without = reference["log_likelihood"]
    got = result["log_likelihood"]
    if got is not None and math.isfinite(got):
        names = "log_likelihood_std_error", "log_likelihood_mc_error"
        errors = [result[name] or 0.0 for name in names]
        error = math.hypot(*(e for e in errors if math.isfinite(e)))
        if got >= without - _ERRORS * error:
            return None
    of_none = "of a model without latents (independent elements)"
    if got is None or not math.isfinite(got):
        shown = f"not finite; that {of_none} is {without:.1f} nats"
    else:
        shown = f"{got:.1f} nats, below the {without:.1f} nats {of_none}"
    return f"log p(x) is {shown}: standardise the data, lower --lr or train longer"


def _scale(data: Dataset | None) -> str | None:
    if data is None or data.likelihood != "gaussian" or data.logit is not None:
        return None
    x = some(data.train, _ENOUGH).flatten(1)
    if len(data.event_shape) == 1:
        means, scales = x.mean(0), x.std(0, correction=0)
    else:  # neighbours share a scale: images are standardised as a whole
        means, scales = x.mean()[None], x.std(correction=0)[None]
    scales = scales[scales > 0]
    if not len(scales):
        return None
    middle, largest = scales.median().item(), scales.max().item()
    far = max(means.abs().max().item(), largest) > _FAR
    if not far and middle >= _SMALL and largest <= _UNEQUAL * middle:
        return None
    return (
        f"the data are not standardised: means from {means.min():.3g} to "
        f"{means.max():.3g}, scales from {scales.min():.3g} to {largest:.3g}, but the "
        "Gaussian likelihood has one scale; standardise=True (--data-option "
        "standardise=true) subtracts the mean of each feature, and divides by its "
        "standard deviation"
    )


def _has_scales(result: Mapping[str, Any]) -> bool:
    """True where each feature has a scale of its own, or the likelihood is another."""
    each = result.get("options", {}).get("feature_scales")
    return has_own_likelihood(result) or bool(each)


def _collapse(result: Mapping[str, Any]) -> str | None:
    if not result.get("kl_per_site"):
        return None
    remedy = "try --kl-warmup, --free-bits or fewer latents"
    kl = result["kl"]
    if kl is not None and kl < _LITTLE_KL:
        return f"the latents carry {max(kl, 0):.2f} nats (posterior collapse); {remedy}"
    counts = [map(int, text.split("/")) for text in result["active_units"].values()]
    active, of = (
        (sum(column) for column in zip(*counts, strict=True)) if counts else (1, 1)
    )
    if active >= _FEW_UNITS * of:
        return None
    return f"{active} of {of} latents are active; {remedy}"


def _ess(result: Mapping[str, Any]) -> str | None:
    ess, draws = result.get("ess"), result.get("num_particles", 1)
    if not result.get("kl_per_site") or draws < _FEW_DRAWS or ess is None:
        return None
    if ess >= _ONE_DRAW:
        return None
    return (
        f"of {draws} particles only {ess:.1f} are effective, so that log p(x) is a "
        "loose lower bound; take more particles, or run `diagnose`"
    )


def _rising(
    result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> str | None:
    """A line through the validation ELBOs of the last phase's last epochs still rises."""
    if _stopped_early(result, records):
        return None
    last = [r for r in records if r.get("phase") == records[-1].get("phase")]
    recorded = [r.get("valid_elbo") for r in last[-max(len(last) // _SHARE, 3) :]]
    values = [v for v in recorded if v is not None and math.isfinite(v)]
    if len(values) < max(len(recorded), 3):
        return None
    if max(values) < max(r.get("valid_elbo") or -math.inf for r in last):
        return None  # it fell before
    epochs = np.arange(len(values))
    slope, start = np.polyfit(epochs, values, 1)
    scatter = np.std(values - (start + slope * epochs), ddof=2)
    rise = slope * (len(values) - 1)
    if rise <= max(_LEAST, _SIZE * abs(values[-1]), _SCATTER * scatter):
        return None
    return (
        f"the validation ELBO still rose, by {rise:.2f} nats over the last {len(values)} "
        f"epochs; {_how_to_go_on(result, records)}"
    )


def _stopped_early(
    result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> bool:
    """True where a training had waited in vain, or has no records."""
    planned = result.get("training", {}).get("epochs", len(records))
    return not records or len(records) < planned


def _fell(
    result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> str | None:
    """The training ELBO ended far below its best; where a model overfits, it rises."""
    last = [r for r in records if r.get("phase") == records[-1].get("phase")]
    bounds = [(r.get("train_bound", r.get("train_elbo")), r["epoch"]) for r in last]
    known = [(value, epoch) for value, epoch in bounds if value is not None]
    if not known:
        return None
    (best, epoch), (end, _) = max(known), known[-1]
    if not best - end > max(_FALL, _QUARTER * abs(best)):
        return None
    clipped = result.get("training", {}).get("clip_norm")
    advice = "a smaller --lr" if clipped else "--clip-norm 100 or a smaller --lr"
    return (
        f"the training ELBO fell from {best:.1f} nats in epoch {epoch} to {end:.3g}: "
        f"the training came apart; try {advice}"
    )


def _overfits(
    result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> str | None:
    """The training went on long after the epoch that is best on the validation data."""
    if _stopped_early(result, records):
        return None
    last = [r for r in records if r.get("phase") == records[-1].get("phase")]
    values = [r.get("valid_elbo") for r in last]
    known = [v if v is not None and math.isfinite(v) else -math.inf for v in values]
    at_end = known[-max(len(known) // _SHARE, 1) :]
    if not known or math.inf in map(abs, at_end):
        return None
    best, end = max(known), sum(at_end) / len(at_end)
    number, noise = known.index(best), _SCATTER * float(np.std(at_end))
    least = max(_LEAST, _BELOW * abs(best))
    if number >= _EARLY * len(known) or best - end <= least + noise:
        return None
    epoch = last[number]["epoch"]
    # Patience begins when the KL is warm.
    waited = len(records) - max(epoch, result.get("training", {}).get("kl_warmup") or 0)
    patience = min(int(waited // 2), 20)
    remedy = f"--patience {patience} would have stopped it"
    return (
        f"the validation ELBO was best in epoch {epoch} of {len(records)}, and "
        f"{best - end:.1f} nats lower at the end: the training overfits; "
        + (remedy if patience > 0 else f"train for --epochs {epoch}")
    )


def _how_to_go_on(
    result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> str:
    """Advice to go on, or anew where schedule or phases are shared out by the epochs."""
    schedule = result.get("training", {}).get("schedule") or "constant"
    shared = schedule not in ("constant", "inverse")  # one of the user's, it may be
    # A phase that is called otherwise may know the number of epochs.
    shared = shared or {r.get("phase", "train") for r in records} != {"train"}
    more = f"--epochs {2 * len(records)}"
    return f"train anew with {more}" if shared else f"continue with --resume {more}"
