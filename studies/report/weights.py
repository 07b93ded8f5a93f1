"""The pretrained weights and the number of each, for a page."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_vae_zoo.report import tables

__all__ = ["weights_table"]

_Info = Mapping[str, Any]  # the JSON beside a file of weights


def weights_table(infos: Sequence[_Info]) -> str:
    """A line for each name: size, bound, log-likelihood, and where k-hat is too high.

    Args:
        infos: what `pretrained_info` has for each name.

    >>> info = {"name": "iaf-six", "bytes": 1_200_000, "elbo": -9.0, "elbo_std_error": 0.2,
    ...         "log_likelihood": -8.5, "log_likelihood_std_error": 0.2,
    ...         "log_likelihood_mc_error": 0.005, "khat": {"above_0.7": 0.5},
    ...         "num_particles": 500, "split": "test", "num_data": 9}
    >>> print(weights_table([info]).splitlines()[2])
    | `iaf-six` | 1.2 | -9.00 | -8.50 | 50 % |
    """
    lines = [
        {
            "name": f"`{info['name']}`",
            "MB": f"{info['bytes'] / 1e6:.1f}",
            "ELBO": tables.number_text(info["elbo"], info["elbo_std_error"]),
            "log p": tables.number_text(
                info["log_likelihood"], info["log_likelihood_std_error"]
            ),
            "k-hat > 0.7": f"{100 * info['khat']['above_0.7']:.0f} %",
        }
        for info in infos
    ]
    below = f"The {_of(infos, 'split')} split, {_of(infos, 'num_data')} data; "
    below += f"{_of(infos, 'num_particles')} particles. Standard error over the data: "
    below += f"{_range(infos, 'log_likelihood_std_error')}; MC error: "
    below += f"{_range(infos, 'log_likelihood_mc_error')}."
    table = tables.markdown(lines, padded=False).rstrip()
    return f"{table}\n\n{textwrap.fill(below, 90)}\n"


def _of(infos: Sequence[_Info], key: str) -> str:
    """The values of a key, each once."""
    values = dict.fromkeys(info[key] for info in infos)
    return ", ".join(f"{v:,}" if isinstance(v, int) else str(v) for v in values)


def _range(infos: Sequence[_Info], key: str) -> str:
    low, high = (tables.error_text(f(info[key] for info in infos)) for f in (min, max))
    return low if low == high else f"{low} to {high}"
