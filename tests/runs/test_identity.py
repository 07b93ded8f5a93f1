"""A run knows its data, and is not lost by a call that forgets to go on with it."""

import pytest
import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.training.checkpoint import load_checkpoint, save_checkpoint

HOW = {"batch_size": 20, "progress": False, "device": "cpu"}


@pytest.fixture
def data():
    return zoo.load_dataset("digits_binary").first(60)


def make(data):
    return zoo.create("mean_field", data, latent_dim=2, hidden_dims=(8,))


def test_a_fingerprint_is_of_the_data_and_of_nothing_else(data):
    names = ("train", "valid", "test")
    splits = {name: getattr(data, name) for name in names}
    same = zoo.Dataset(
        **{n: x.double().numpy() for n, x in splits.items()}, name="mine"
    )
    assert same.fingerprint() == data.fingerprint()
    assert data.to("cpu").fingerprint() == data.fingerprint()
    other_test = zoo.Dataset(**splits | {"test": 1 - data.test})
    assert other_test.fingerprint() == data.fingerprint()  # nothing is learned from it
    one_bit = data.train.clone()
    one_bit[7, 3, 2] = 1 - one_bit[7, 3, 2]
    others = [
        zoo.Dataset(**splits | {"train": one_bit}),
        zoo.Dataset(**splits | {"train": data.train.flip(0)}),
        zoo.Dataset(**splits | {"valid": data.valid[:-1]}),
        zoo.Dataset(**{n: x.flatten(1) for n, x in splits.items()}),
        zoo.Dataset(**splits, likelihood="gaussian"),
        zoo.Dataset(**splits, dynamic=True),
        data.first(59),
    ]
    found = {other.fingerprint() for other in others} | {data.fingerprint()}
    assert len(found) == len(others) + 1


def test_a_training_does_not_go_on_with_other_data(data, tmp_path):
    zoo.fit(make(data), data, epochs=1, out=tmp_path, **HOW)
    inverted = zoo.Dataset(1 - data.train, 1 - data.valid, 1 - data.test)
    with pytest.raises(
        zoo.UserError, match="made with other data.*resume with the same"
    ):
        zoo.fit(make(data), inverted, epochs=2, out=tmp_path, resume=True, **HOW)
    history = zoo.fit(make(data), data, epochs=2, out=tmp_path, resume=True, **HOW)
    assert len(history.epochs) == 2


def test_a_checkpoint_without_a_fingerprint_goes_on(data, tmp_path):
    """Those of version 0.1.0 have none."""
    zoo.fit(make(data), data, epochs=1, out=tmp_path, **HOW)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    del state["data"]
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    history = zoo.fit(make(data), data, epochs=2, out=tmp_path, resume=True, **HOW)
    assert len(history.epochs) == 2
    assert load_checkpoint(tmp_path / "checkpoint.pt")["data"] == data.fingerprint()


@pytest.mark.parametrize("left", ["metrics.jsonl", "checkpoint.pt"])
def test_a_training_is_not_overwritten_by_mistake(data, tmp_path, left):
    zoo.fit(make(data), data, epochs=2, out=tmp_path, **HOW)
    for name in {"metrics.jsonl", "checkpoint.pt"} - {left}:
        (tmp_path / name).unlink()
    before = (tmp_path / left).read_bytes()
    with pytest.raises(zoo.UserError, match=rf"{left}.*resume=True.*overwrite=True"):
        zoo.fit(make(data), data, epochs=1, out=tmp_path, **HOW)
    assert (tmp_path / left).read_bytes() == before
    zoo.fit(make(data), data, epochs=1, out=tmp_path, overwrite=True, **HOW)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert load_checkpoint(tmp_path / "checkpoint.pt")["epoch"] == 1


def test_overwriting_and_resuming_exclude_each_other(data, tmp_path):
    with pytest.raises(zoo.UserError, match="exclude each other"):
        zoo.fit(
            make(data), data, epochs=1, out=tmp_path, resume=True, overwrite=True, **HOW
        )


def test_what_overwrites_leaves_no_old_checkpoint(data, tmp_path):
    """Else a training that fails at once would be resumed from the one before it."""
    zoo.fit(make(data), data, epochs=1, out=tmp_path, **HOW)
    broken = make(data)
    with torch.no_grad():
        broken.model.decoder[-1].bias.fill_(torch.nan)
    with pytest.raises(zoo.DivergedError):
        zoo.fit(broken, data, epochs=1, out=tmp_path, overwrite=True, **HOW)
    assert not (tmp_path / "checkpoint.pt").exists()
