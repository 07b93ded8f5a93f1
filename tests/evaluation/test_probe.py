"""Labels read from embeddings, which nothing else of the zoo sees."""

import json

import numpy as np
import pytest
import torch
from pairs import LinearGaussian, small
from sklearn.linear_model import LogisticRegression

import pyro_vae_zoo as zoo
from pyro_vae_zoo import plots
from pyro_vae_zoo.cli.main import main
from pyro_vae_zoo.evaluation.probe import _STRENGTHS, labels_for, probe_scores
from pyro_vae_zoo.runs import folder as run_folder
from pyro_vae_zoo.runs.run import make_run
from pyro_vae_zoo.training.options import TrainOptions

CLASSES = 3


def labelled(x, y):
    """Two thirds of the data to train on, a sixth each to choose and to test by."""
    a, b = 2 * len(x) // 3, 5 * len(x) // 6
    cut = lambda z: (z[:a], z[a:b], z[b:])
    labels = dict(zip(("train", "valid", "test"), cut(y), strict=True))
    return zoo.Dataset(*cut(x), "gaussian", labels=labels, label_names=("a", "b", "c"))


def pair():
    """Its embedding is a multiple of x."""
    return LinearGaussian(torch.eye(2), torch.zeros(2), scale=0.5).vae()


def separable(n=300):
    """Three narrow clouds at the corners of a triangle."""
    y = torch.arange(n) % CLASSES
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    return labelled(corners[y] + 0.01 * torch.randn(n, 2), y)


def noise(n=1200):
    return labelled(torch.randn(n, 2), torch.randint(CLASSES, (n,)))


def test_the_embedding_of_the_pair_is_a_multiple_of_x():
    x = torch.randn(5, 2)
    torch.testing.assert_close(pair().embed(x), 0.8 * x.double())


@pytest.mark.parametrize("probe", [zoo.linear_probe, zoo.nearest_neighbours])
def test_what_is_apart_is_found_and_noise_is_not(probe):
    found = probe(pair(), separable())
    assert (found.accuracy, found.std_error) == (1.0, 0.0)
    assert found.per_class.tolist() == [1.0] * CLASSES
    assert found.names == ("a", "b", "c")
    assert (found.num_train, found.num_test) == (200, 50)
    lost = probe(pair(), noise())
    assert abs(lost.accuracy - 1 / CLASSES) < 4 * lost.std_error
    assert 0.25 < lost.chance < 0.45


def test_the_error_is_that_of_a_share():
    confusion = torch.tensor([[30, 10], [0, 60]])
    probe = zoo.Probe(confusion, 0.6, "a guess", ("a", "b"), 10)
    assert probe.accuracy == 0.9
    assert probe.std_error == pytest.approx((0.9 * 0.1 / 100) ** 0.5)
    assert probe.per_class.tolist() == [0.75, 1.0]


def test_a_line_cannot_part_what_neighbours_can():
    """Two classes in the quadrants: all is there, and no line finds it."""
    x = torch.rand(1200, 2) - 0.5
    data = labelled(x, (x.prod(1) > 0).long())
    assert zoo.linear_probe(pair(), data).accuracy < 0.75  # which no line exceeds
    assert zoo.nearest_neighbours(pair(), data, k=5).accuracy > 0.9


def split_into(x, y):
    """Parts of a third each."""
    thirds = [z.chunk(3) for z in (x, y)]
    labels = dict(zip(("train", "valid", "test"), thirds[1], strict=True))
    return zoo.Dataset(*thirds[0], "gaussian", labels=labels, label_names=("a", "b"))


def test_so_many_neighbours_vote():
    """One training datum in three has the other class, next to the test data."""
    y = torch.tensor([0, 0, 1, 0, 0, 0, 0, 0, 0])
    x = torch.tensor([1.0, -1.1, 0.1, 9, 9, 9, 0.0, 0.0, 0.0])
    data = split_into(torch.stack([x, torch.zeros(9)], 1), y)
    assert zoo.nearest_neighbours(pair(), data, k=1).accuracy == 0
    assert zoo.nearest_neighbours(pair(), data, k=3).accuracy == 1


def test_chance_is_the_share_of_the_class_that_training_has_most_of():
    y = torch.tensor([0] * 7 + [1] * 3 + [0, 1] * 5 + [0] * 6 + [1] * 4)
    data = split_into(torch.randn(30, 2), y)
    assert zoo.nearest_neighbours(pair(), data, k=1).chance == pytest.approx(0.6)


def test_features_are_standardised_for_the_line():
    """The class is in a direction that is ten thousand times as narrow as the other."""
    y = torch.arange(300) % 2
    x = torch.stack([1e2 * torch.randn(300), 1e-2 * (y + 0.1 * torch.randn(300))], 1)
    assert zoo.linear_probe(pair(), split_into(x, y)).accuracy == 1


def test_validation_chooses_how_strongly_the_line_is_regularised(monkeypatch):
    scores = iter([0.2, 0.9, 0.4, 0.9, 0.1])
    monkeypatch.setattr(LogisticRegression, "score", lambda *args: next(scores))
    found = zoo.linear_probe(pair(), separable())
    assert found.classifier == f"logistic regression, C = {_STRENGTHS[1]:g}"


def test_at_most_so_many_data_are_looked_at():
    found = zoo.linear_probe(pair(), separable(), num_data=30)
    assert (found.num_train, found.num_test) == (30, 30)


def test_a_class_without_test_data_is_in_the_table():
    x, y = torch.randn(60, 2), torch.arange(60) % 2
    found = zoo.nearest_neighbours(pair(), labelled(x, y), k=1)
    assert found.confusion.shape == (CLASSES, CLASSES)
    assert found.per_class[2].isnan()
    assert "nan" not in repr(found)


def test_the_random_state_is_left_and_the_seed_repeats(images):
    data = zoo.load_dataset("digits_binary").first(200)
    vae = zoo.create("iaf", data, latent_dim=4, hidden_dims=(16,))
    before = torch.get_rng_state()
    first = zoo.linear_probe(vae, data, num_samples=3)
    assert torch.equal(torch.get_rng_state(), before)
    again = zoo.linear_probe(vae, data, num_samples=3)
    assert torch.equal(first.confusion, again.confusion)


def test_labels_move_nothing_by_a_bit():
    data = noise(120)
    bare = zoo.Dataset(data.train, data.valid, data.test, "gaussian")
    trained = []
    for some in (data, bare):
        torch.manual_seed(1)
        vae = small("iaf", event_shape=(2,), likelihood="gaussian")
        zoo.fit(vae, some, epochs=2, batch_size=40, device="cpu", progress=False)
        if some is data:
            zoo.linear_probe(vae, some)
        ll = zoo.log_likelihood(vae, some.test, 20).log_prob
        trained.append([ll, *vae.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))


def test_mistakes_are_named(images):
    with pytest.raises(zoo.UserError, match="labels of the train split"):
        zoo.linear_probe(small("mean_field"), images)
    data = separable(60)
    with pytest.raises(zoo.UserError, match="k must be at most the 40 training data"):
        zoo.nearest_neighbours(pair(), data, k=41)
    with pytest.raises(zoo.UserError, match="num_data must be at least 1"):
        zoo.linear_probe(pair(), data, num_data=0)
    with pytest.raises(zoo.UserError, match="one latent vector 'z'"):
        zoo.linear_probe(small("ladder", event_shape=(2,), likelihood="gaussian"), data)
    one = labelled(
        torch.randn(60, 2), torch.cat([torch.zeros(40), torch.ones(20)]).long()
    )
    with pytest.raises(zoo.UserError, match="two classes at least, got one"):
        zoo.linear_probe(pair(), one)
    with pytest.raises(zoo.UserError, match="expected a Dataset, got Tensor"):
        zoo.nearest_neighbours(pair(), data.test)
    with pytest.raises(zoo.UserError, match="seed.* whole number"):
        zoo.linear_probe(pair(), data, seed=1.5)


def test_a_result_has_the_scores_or_the_reason(images):
    assert probe_scores(small("mean_field"), images, seed=0) == {}
    scores = probe_scores(pair(), separable(90), seed=0)
    assert set(scores) == {"linear", "neighbours"}
    assert json.loads(json.dumps(scores)) == scores
    ladder = small("ladder", event_shape=(2,), likelihood="gaussian")
    assert "one latent vector" in probe_scores(ladder, separable(90), 0)["skipped"]


def test_a_class_that_is_not_among_the_data_that_are_looked_at():
    y = torch.zeros(600, dtype=torch.long)
    y[0] = y[-1] = 1
    data = labelled(torch.randn(600, 2), y)
    with pytest.raises(zoo.UserError, match="got one in the 5 data drawn at random"):
        zoo.linear_probe(pair(), data, num_data=5)


def test_labels_are_of_the_whole_split_or_of_nothing():
    data = separable(60)
    values, names = labels_for(data, "test", 10)
    assert torch.equal(values, data.labels["test"])
    assert names == ("a", "b", "c")
    assert labels_for(data, "test", 9) == (None, None)


def test_a_broken_file_of_labels_is_told_of_before_the_training(tmp_path):
    def broken():
        raise zoo.DataFileError("train-labels-idx1-ubyte is broken")

    data = separable(60)
    vars(data)["_classes"] = broken  # read when it is asked for, as a published set's
    options = {"latent_dim": 2, "hidden_dims": (8,)}
    with pytest.raises(zoo.DataFileError, match="is broken"):
        make_run(tmp_path / "run", "mean_field", data, options, TrainOptions(epochs=1))
    assert not (tmp_path / "run").exists()


def test_a_run_and_its_evaluation_report_the_probes(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda fig, path: drawn.append(path.name))
    bits, labels = torch.rand(90, 2, 3) < 0.5, torch.arange(90) % 2
    np.savez(tmp_path / "six.npz", train=bits.numpy(), labels=labels.numpy())
    folder = tmp_path / "run"
    options = "--guide mean_field --epochs 1 --latent-dim 2 --hidden-dims 8 --quiet"
    options += f" --eval-particles 5 --data {tmp_path / 'six.npz'} --out {folder}"
    main(["train", *options.split()])
    said = capsys.readouterr().out
    assert "linear probe" in said
    assert "10 neighbours" in said
    assert "embedding.png" in drawn
    assert "embedding" in run_folder.PICTURES  # which --overwrite removes
    main(["evaluate", str(folder), "--num-particles", "5", "--json", "--quiet"])
    found = json.loads(capsys.readouterr().out)
    stored = json.loads((folder / "result.json").read_text())
    assert found["probe"] == stored["probe"]
    assert found["probe"]["linear"]["num_test"] == 9
