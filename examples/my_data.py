"""Data of your own: a table, a folder of pictures, an array.

    python examples/train.py --data flowers.csv --data-option labels=kind \
        --data-option standardise=true --latent-dim 2
    python examples/train.py --data pictures/ --data-option size=32 --guide iaf

Run this file to train on a table, and to have its numbers in the table's own units.
"""

import tempfile
from pathlib import Path

from sklearn.datasets import load_iris

import pyro_vae_zoo as zoo


def write_flowers(path):
    """Fisher's irises: lengths in cm, and the class of each flower in the last column."""
    iris = load_iris()
    names = [iris.target_names[label] for label in iris.target]
    both = zip(iris.data, names, strict=True)
    rows = (",".join(map(str, [*x, name])) for x, name in both)
    path.write_text("\n".join(["sepal,sepal width,petal,petal width,kind", *rows]))
    return path


if __name__ == "__main__":
    # Others: Dataset.from_folder, .from_frame, .from_torch, .split, and Dataset itself.
    path = write_flowers(Path(tempfile.mkdtemp(), "flowers.csv"))
    data = zoo.Dataset.from_csv(path, labels="kind", standardise=True)
    print(data, data.label_names)

    vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(32,))
    zoo.fit(vae, data, epochs=50, batch_size=20, progress=False)
    result = zoo.evaluate(vae, data, 100)  # of `data`, not of `data.test`: in cm
    print(f"log p(x) = {result.log_likelihood:.2f} nats, density per cm of each length")
    print("new flowers, in cm:", data.pixels(vae.sample(2)))
    print("codes of the test data:", vae.embed(data.test).shape, data.labels["test"])
