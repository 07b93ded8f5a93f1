r"""What labels can be read from a latent space: a linear probe, and nearest neighbours.

Guillaume Alain, Yoshua Bengio: *Understanding intermediate layers using linear classifier
probes*, 2016, https://arxiv.org/abs/1610.01644

Of each datum there is its embedding \(m_i = E_{q(z|x_i)}[z]\) and its class \(y_i\). The
probe is a multinomial logistic regression,

\[p(y|m) \propto \exp(w_y^\top \tilde m + b_y), \qquad
  \min_{w, b}\; \tfrac12 \|w\|^2 - C \textstyle\sum_i \log p(y_i|m_i),\]

\(\tilde m\) standardised on the training data. It tells how much of the labels a linear
classifier finds; k nearest neighbours tell how much is there at all. Both are
scikit-learn's. Neither training nor a bound ever sees a label.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.display import Summary, digits, figure, frame
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.options import count
from pyro_vae_zoo.pair.door import check_dataset
from pyro_vae_zoo.pair.modes import evaluating
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.runtime import check_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["Probe", "labels_for", "linear_probe", "nearest_neighbours", "probe_scores"]

# The C among which the validation data choose; of equal ones the smallest.
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class Probe:
    """How well a classifier of embeddings does on the test data.

    Attributes:
        confusion: test data of each class, a row, by the class that they were taken for,
            a column; shape `(classes, classes)`, int64.
        chance: the share that is right where each datum is taken for the class that is
            the most frequent one in training.
        classifier: what it is, in words.
        names: of the classes.
        num_train: data that it was fitted to.

    >>> probe = Probe(torch.tensor([[3, 1], [0, 4]]), 0.5, "a guess", ("a", "b"), 10)
    >>> probe.accuracy, round(probe.std_error, 3), probe.per_class.tolist()
    (0.875, 0.117, [0.75, 1.0])
    """

    confusion: Tensor
    chance: float
    classifier: str
    names: tuple[str, ...]
    num_train: int

    @property
    def num_test(self) -> int:
        """Data that it was tested on."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of the test data whose class is found."""
        return int(self.confusion.trace()) / self.num_test

    @property
    def std_error(self) -> float:
        r"""Standard error of the accuracy a over N test data, \(\sqrt{a (1 - a) / N}\)."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.num_test)

    @property
    def per_class(self) -> Tensor:
        """Share of each class that is found; NaN for one without test data."""
        return self.confusion.diagonal() / self.confusion.sum(1)

    def __repr__(self) -> str:
        return str(self._summary())

    def _repr_html_(self) -> str:
        return self._summary().html()

    def _summary(self) -> Summary:
        error = f"+- {digits(self.std_error)} over {self.num_test} test data"
        found = self.per_class.nan_to_num(math.inf)
        worst = int(found.argmin())
        rows = [
            ("accuracy", digits(self.accuracy), error),
            ("chance", digits(self.chance), "always the most frequent class"),
            ("hardest class", digits(found[worst].item()), self.names[worst][:40]),
        ]
        classes = f"{len(self.names)} classes, {self.num_train} training data"
        return Summary(f"Probe by {self.classifier}; {classes}", rows)

    def to_dict(self) -> dict[str, Any]:
        """The probe in few numbers, ready for JSON."""
        names = (
            "accuracy",
            "std_error",
            "chance",
            "classifier",
            "num_train",
            "num_test",
        )
        return {name: getattr(self, name) for name in names}

    def to_frame(self) -> "DataFrame":
        """The confusion as a data frame: true classes are rows, found ones columns.

        Raises:
            UserError: without pandas.
        """
        columns = dict(zip(self.names, self.confusion.T, strict=True))
        return frame(columns).set_axis([*self.names]).rename_axis("true class")

    def plot(self, *, title: str | None = None) -> "Figure":
        """The confusion of the classes, as shares of each."""
        return figure(self, title)


def linear_probe(
    vae: VAE,
    data: Dataset,
    *,
    num_data: int = 5000,
    num_samples: int = 100,
    seed: int = 0,
) -> Probe:
    """The labels that a logistic regression finds in the embeddings.

    Features are standardised on the training data; the strength of the regularisation, one
    of five powers of ten, is that which finds most of the validation data's labels.

    Args:
        vae: a pair of one real latent vector, for which there is `vae.embed`.
        data: data with labels in all three splits.
        num_data: of each split at most so many, drawn without replacement.
        num_samples: draws for each embedding, where it has no closed form.
        seed: of the choice of data and of all draws; the caller's random state is left
            as it was.

    Raises:
        UserError: for data without labels or of one class, and for pairs of other
            latents.

    >>> import pyro_vae_zoo as zoo
    >>> data = zoo.load_dataset("digits").first(300)
    >>> vae = zoo.create("mean_field", data, latent_dim=8, hidden_dims=(32,))
    >>> probe = linear_probe(vae, data)
    >>> probe.num_train, probe.num_test, probe.accuracy > 2 * probe.chance
    (300, 250, True)
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    (train, y), (valid, y_valid), (test, y_test) = (
        _embedded(vae, data, split, num_data, num_samples, seed)
        for split in ("train", "valid", "test")
    )
    scaler = StandardScaler().fit(train)
    train, valid, test = map(scaler.transform, (train, valid, test))
    best, chosen, predicted = -1.0, 0.0, y_test
    for strength in _STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000).fit(train, y)
        score = model.score(valid, y_valid)
        if score > best:
            best, chosen, predicted = score, strength, model.predict(test)
    what = f"logistic regression, C = {chosen:g}"
    return _probe(data, y, y_test, predicted, what)


def nearest_neighbours(
    vae: VAE,
    data: Dataset,
    k: int = 10,
    *,
    num_data: int = 5000,
    num_samples: int = 100,
    seed: int = 0,
) -> Probe:
    """The labels that the k nearest training data have, by a vote.

    Distances are Euclidean, between embeddings as they are.

    Args:
        vae: a pair of one real latent vector, for which there is `vae.embed`.
        data: data with labels in training and test split.
        k: neighbours that vote.
        num_data: of each split at most so many, drawn without replacement.
        num_samples: draws for each embedding, where it has no closed form.
        seed: of the choice of data and of all draws.

    Raises:
        UserError: as `linear_probe`, and for more neighbours than there are data.

    >>> import pyro_vae_zoo as zoo
    >>> data = zoo.load_dataset("digits").first(300)
    >>> vae = zoo.create("mean_field", data, latent_dim=8, hidden_dims=(32,))
    >>> nearest_neighbours(vae, data, k=5).classifier
    '5 nearest neighbours'
    """
    from sklearn.neighbors import KNeighborsClassifier

    k = count("k", k)
    (train, y), (test, y_test) = (
        _embedded(vae, data, split, num_data, num_samples, seed)
        for split in ("train", "test")
    )
    if k > len(train):
        raise UserError(f"k must be at most the {len(train)} training data, got {k}")
    predicted = KNeighborsClassifier(k).fit(train, y).predict(test)
    what = f"{k} nearest neighbours" if k > 1 else "the nearest neighbour"
    return _probe(data, y, y_test, predicted, what)


def labels_for(
    data: Dataset, split: str, num_data: int
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Labels of a split and the names of the classes; None for both where none are known.

    Neither are they known of some of the split only, other than `num_data`.
    """
    labels = (data.labels or {}).get(split)
    if labels is None or len(labels) != num_data:
        return None, None
    return labels.cpu(), data.label_names


def probe_scores(vae: VAE, data: Dataset, seed: int) -> dict[str, Any]:
    """Both probes for a result: of at most 2000 data a split, by 20 draws of each.

    Nothing where the data have no labels; where the pair or the data are not for probes,
    the reason as `skipped`.
    """
    if data.labels is None:
        return {}
    found = {}
    try:
        for name, probe in (
            ("linear", linear_probe),
            ("neighbours", nearest_neighbours),
        ):
            found[name] = probe(vae, data, num_data=2000, num_samples=20, seed=seed)
    except UserError as error:
        return {"skipped": str(error)}
    return {name: probe.to_dict() for name, probe in found.items()}


def _embedded(
    vae: VAE, data: Dataset, split: str, num_data: int, num_samples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and classes of some of a split, float64 and int64."""
    check_dataset(data)
    check_seed(seed)
    labels = (data.labels or {}).get(split)
    if labels is None:
        raise UserError(
            f"expected data with labels of the {split} split, got {data.name} without; "
            "give them by Dataset(..., labels=...)"
        )
    x = data.epoch(seed, 0) if split == "train" else getattr(data, split)
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(len(x), generator=generator, device="cpu")
    rows = order[: count("num_data", num_data)].sort().values
    classes = labels.cpu()[rows]
    if split == "train" and len(classes.unique()) < 2:
        raise UserError(
            "expected training data of two classes at least, got one in the "
            f"{len(rows)} data drawn at random; use a larger num_data"
        )
    with evaluating(vae.model, vae.guide, vae.device, seed):
        codes = vae.embed(x[rows.to(x.device)], num_samples)
    return codes.double().cpu().numpy(), classes.numpy()


def _probe(
    data: Dataset, y: np.ndarray, y_test: np.ndarray, predicted: np.ndarray, what: str
) -> Probe:
    names = data.label_names or ()
    size = len(names)
    pairs = torch.from_numpy(y_test * size + predicted)
    confusion = torch.bincount(pairs, minlength=size**2).reshape(size, size)
    chance = float((y_test == np.bincount(y).argmax()).mean())
    return Probe(confusion, chance, what, names, len(y))
