"""Results in words, in lines of at most 80 columns."""

import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pyro_vae_zoo.data.display import digits

__all__ = ["describe", "filled", "summary"]


def summary(result: Mapping[str, Any], *, which: str = "") -> str:
    """A result in lines of at most 80 columns.

    Args:
        result: as in `result.json`.
        which: `first` where its data are the first of the split, and not all of it.
    """
    k, n = result["num_particles"], f"{which} {result['num_data']}".strip()
    khat, latents = result["khat"], result["kl_per_site"]
    mc_error = digits(result["log_likelihood_mc_error"])
    lines = [
        f"{result['guide']} on {result['data']}, {result['split']} split, {n} data, "
        f"seed {result['seed']}",
        filled(f"({result['variant']})"),
        f"  log-likelihood  {digits(result['log_likelihood']):>9} +- "
        f"{digits(result['log_likelihood_std_error'])} nats  "
        + (f"({k} particles, MC error {mc_error})" if latents else "(exact)"),
        *_references(result),
        f"  ELBO            {digits(result['elbo']):>9} +- "
        f"{digits(result['elbo_std_error'])} nats",
        f"  KL              {digits(result['kl']):>9} nats",
        f"  reconstruction  {digits(result['reconstruction']):>9} nats",
        f"  bits/dimension  {digits(result['bits_per_dim'], 4):>9}",
        _below(
            "  active units    ", f"{', '.join(result['active_units'].values()):>9}"
        ),
    ]
    if not latents:
        unknown = "  ELBO", "  KL", "  reconstruction", "  active units"
        lines = [line for line in lines if not line.startswith(unknown)]
    weights = result.get("component_weights")
    if weights:
        text = "  components      " + " ".join(f"{w:9.3f}" for w in weights[:6])
        lines.append(f"{text} mean weights" if len(weights) <= 4 else text)
    if khat["above_0.7"] is not None:
        share = 100 * khat["above_0.7"]
        median = "inf" if khat["median"] is None else f"{khat['median']:.2f}"  # in JSON
        lines.append(f"  Pareto k-hat    {median:>9} median, {share:.0f} % above 0.7")
    for name, probe in (result.get("probe") or {}).items():
        if name in _PROBES:
            error, chance = digits(probe["std_error"]), digits(probe["chance"], 2)
            text = f"{_PROBES[name]:<14}  {digits(probe['accuracy']):>9} +- {error}"
            lines.append(f"  {text} of the labels (chance {chance})")
    if result.get("pretrained"):
        lines += _pretrained(result["pretrained"], k, khat["above_0.7"])
    if stop := _stop(result):
        lines.append(filled(stop))
    for name, text in (result.get("cautions") or {}).items():
        lines.append(filled(f"{'error' if name == 'absurd' else 'caution'}: {text}"))
    return "\n".join(lines)


def _references(result: Mapping[str, Any]) -> Iterator[str]:
    """What the log-likelihood is held against, and by how much it is ahead."""
    known = result.get("references") or {}
    got = result["log_likelihood"]
    for name, text in _NAMES.items():
        if name not in known or got is None:
            continue
        reference = known[name]["log_likelihood"]
        ahead = got - reference
        where = (
            f"{digits(abs(ahead))} nats {'below' if ahead > 0 else 'above'} this run"
        )
        if epochs := known[name].get("epochs"):
            where += f" ({known[name]['seeds']} seeds, {epochs} epochs)"
        yield f"  {text:<14}  {digits(reference):>9}  {where}"


def _stop(result: Mapping[str, Any]) -> str:
    """What the patience has saved, or nothing."""
    training, done = result.get("training") or {}, result.get("epochs") or 0
    best, patience = result.get("best_epoch") or 0, training.get("patience")
    if not patience or not done - best >= patience or done >= training["epochs"]:
        return ""
    return (
        f"stopped after epoch {done} of {training['epochs']}: none after epoch {best} "
        "was better on validation; --resume --patience 0 goes on"
    )


_NAMES = {"independent": "no latents", "mean_field": "mean_field"}
_PROBES = {"linear": "linear probe", "neighbours": "10 neighbours"}


def _pretrained(
    published: dict, num_particles: int, unreliable: float | None
) -> list[str]:
    """The distance of pretrained weights from their own number, and its likely causes."""
    errors = published["mc_errors"]
    lines = [
        f"  published       {published['log_likelihood']:9.3f} nats  "
        f"({published['num_particles']} particles, MC error "
        f"{digits(published['log_likelihood_mc_error'])})",
        f"  difference      {published['difference']:+9.3f} nats  "
        f"({'?' if errors is None else f'{errors:+.1f}'} MC errors of both together)",
    ]
    if published["num_particles"] != num_particles:
        lines.append("  (more particles raise the log-likelihood, fewer lower it)")
    if unreliable and unreliable > 0.5 and errors and abs(errors) > 0.1:
        lines.append("  (k-hat is above 0.7: the true MC errors are larger)")
    return lines


def _below(head: str, text: str) -> str:
    """Text of at most 80 columns, the later lines below the first."""
    indent = " " * len(head)
    return textwrap.fill(text, 80, initial_indent=head, subsequent_indent=indent)


def filled(text: str) -> str:
    """Indented lines of at most 80 columns, unless a path needs more."""
    return textwrap.fill(
        text,
        80,
        initial_indent="  ",
        subsequent_indent="   ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def describe(result: dict) -> str:
    """A diagnosis in lines of at most 80 columns, from the dictionary of a run."""
    settings = result["settings"]
    lines = [
        f"{result['guide']} on {result['data']}: log p(x), in nats per datum",
        f"({result['num_data']} data drawn at random from the {result['split']} split, "
        f"seed {settings['seed']})",
        "(IS: importance sampling, "
        + ("AIS: annealed IS, " if "annealing" in result else "")
        + "+- MC error)",
        _line("IS, guide", result["importance"]),
    ]
    if "local_importance" in result:
        lines.append(_line("IS, a q for each datum", result["local_importance"]))
    if "annealing" in result:
        text = f"{settings['chains']} chains, T = {settings['temps']}"
        ess = f"ESS {digits(result['annealing']['ess'], 1)}"
        lines.append(_line(f"AIS, {text}", result["annealing"], ess))
        for name, found in result["agreement"].items():
            z = math.nan if found["z"] is None else found["z"]
            lines.append(
                f"  {_DIFFERENCES[name]:<29}{_number(found, 'difference', 'std_error')}"
                f"  z = {z:.1f}: {_verdict(z)}"
            )
    if "bidirectional" in result:
        found = result["bidirectional"]
        text = f"{found['num_data']} simulated data"
        lines.append(
            f"  {'bound on AIS error':<29}{_number(found, 'gap', 'gap_std_error')}  "
            f"{text}"
        )
    if "gaps" in result:
        found = result["gaps"]
        for name, due_to in (("approximation", "family"), ("amortisation", "encoder")):
            number = _number(found, f"{name}_gap", f"{name}_gap_std_error")
            text = f"{name} gap ({due_to})"
            lines.append(f"  {text:<29}{number}  error over the data")
        lines.append(f"  (gaps from log p(x) by {found['log_prob_from']} to the ELBO)")
    if "covariances" in result:
        found = result["covariances"]
        values = [digits(v) for v in found["mean_abs_correlation"]]
        shown = values if len(values) <= 5 else [*values[:2], "...", *values[-2:]]
        steps = " to ".join(dict.fromkeys(found["steps"][i] for i in (0, -1)))
        lines.append(
            f"  mean |correlation|, {steps}: {' '.join(shown)} (noise {found['noise']:.3f})"
        )
    lines += [
        filled(f"no {name}: {reason}") for name, reason in result["skipped"].items()
    ]
    return "\n".join(lines)


def _line(name: str, found: dict, text: str | None = None) -> str:
    """An estimate of log p(x) and what says whether to trust it."""
    if text is None:
        khat, text = found["khat"], f"{found['num_particles']} particles"
        if khat["above_0.7"] is not None:
            median = khat["median"]  # None of what is infinite, in JSON
            text += ", k-hat " + ("inf" if median is None else f"{median:.2f}")
    return f"  {name:<29}{_number(found, 'log_likelihood', 'mc_error')}  {text}"


def _verdict(z: float) -> str:
    if math.isnan(z):
        return "no error bars"
    if abs(z) <= _AGREE:
        return "they agree"
    return "IS is too low" if z < 0 else "AIS is too low"


_AGREE = 2  # standard errors


_DIFFERENCES = {
    "importance": "IS, guide - AIS",
    "local_importance": "IS, a q for each datum - AIS",
}


def _number(values: dict, name: str, error: str) -> str:
    return f"{digits(values[name]):>9} +- {digits(values[error])}"
