"""Data that are not in memory: what is read, what is random about it, what is refused."""

import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.data import standardised
from pyro_vae_zoo.data.streamed import randomness
from pyro_vae_zoo.data.streamed import rows as streamed_rows
from pyro_vae_zoo.data.streamed.randomness import (
    KeyedOrder,
    digest_of,
    permutation,
    uniform_rows,
)
from pyro_vae_zoo.data.streamed.rows import Rows, part, some
from pyro_vae_zoo.data.streamed.sources import ArrayFile, Items
from pyro_vae_zoo.data.streamed.workers import read_ahead


def numbers(*shape, dtype=np.float32):
    return np.random.default_rng(0).random(shape).astype(dtype)


@pytest.fixture
def mapped(tmp_path):
    """A function: an array as `np.load` maps it from a file."""

    def save(array, name="x.npy"):
        np.save(tmp_path / name, array)
        return np.load(tmp_path / name, mmap_mode="r")

    return save


class Shifted(torch.utils.data.Dataset):
    """Data that are moved at random, by the random state of each library."""

    def __init__(self, n=12):
        self.x = torch.arange(2.0 * n).reshape(n, 2)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        drawn = random.random(), np.random.random(), torch.rand(()).item()
        return self.x[i] + sum(drawn), i % 3


# ------------------------------------------------------------------ what is read


@pytest.mark.parametrize("dtype", ["?", "u1", "<i4", ">i2", "<f2", "<f4", ">f4", "<f8"])
def test_rows_of_a_file_are_those_of_the_array(mapped, dtype):
    array = (9 * numbers(20, 3, 2)).astype(dtype)
    rows = Rows(ArrayFile.of(mapped(array)))
    native = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    assert (len(rows), rows.shape, rows.event_shape) == (20, (20, 3, 2), (3, 2))
    assert torch.equal(rows[:], native)
    assert torch.equal(rows[torch.tensor([7, 3, 3, -1])], native[[7, 3, 3, 19]])
    assert torch.equal(rows[4:17:5], native[4:17:5])
    batches = list(rows.split(8))
    assert [len(x) for x in batches] == [8, 8, 4]
    assert torch.equal(torch.cat(batches), native)


def test_grey_images_of_a_file_have_no_channel(mapped):
    x = numbers(20, 5, 6, 1)
    file, memory = (
        zoo.Dataset(given, likelihood="gaussian", standardise=True)
        for given in (mapped(x), x)
    )
    assert file.event_shape == file.test.event_shape == memory.event_shape == (5, 6)
    assert torch.allclose(file.train[[3, 1]], memory.train[[3, 1]])
    vae = zoo.create("mean_field", file, latent_dim=2, hidden_dims=(8,))
    assert zoo.evaluate(vae, mapped(x, "raw.npy"), 2).num_data == 20


@pytest.mark.parametrize(
    "cut",
    [lambda x: x[5:], lambda x: x[3:17:4], lambda x: x[::-1], lambda x: x[2:][:, None]],
    ids=["tail", "strided", "backwards", "new axis"],
)
def test_a_part_of_a_mapped_array_is_that_part_of_the_file(mapped, cut):
    array = mapped(numbers(20, 6))
    assert torch.equal(
        Rows(ArrayFile.of(cut(array)))[:], torch.tensor(np.array(cut(array)))
    )


def test_a_raw_map_with_an_offset(tmp_path):
    x = numbers(7, 4)
    (tmp_path / "raw").write_bytes(b"header" + x.tobytes())
    array = np.memmap(tmp_path / "raw", np.float32, "r", offset=6, shape=(7, 4))
    assert torch.equal(Rows(ArrayFile.of(array))[:], torch.from_numpy(x))


def test_columns_of_a_file_are_refused(mapped):
    with pytest.raises(zoo.UserError, match="whose rows are contiguous"):
        ArrayFile.of(mapped(numbers(9, 6))[:, ::2])
    with pytest.raises(zoo.UserError, match="mapped from a file"):
        ArrayFile.of(numbers(9, 6))


def test_indices_out_of_range(mapped):
    rows = Rows(ArrayFile.of(mapped(numbers(9, 6)))).part(slice(2, 6))
    for index in ([4], [-5], [[1]]):
        with pytest.raises(IndexError, match="from -4 to 3"):
            rows[index]


def test_rows_are_indexed_as_a_tensor_is(mapped):
    x = numbers(9, 6)
    rows, tensor = Rows(ArrayFile.of(mapped(x))).part(slice(2, 8)), torch.tensor(x[2:8])
    mask = torch.tensor([False, True, False, False, True, True])
    assert torch.equal(rows[mask], tensor[mask])
    assert torch.equal(rows[mask.numpy()], tensor[mask])
    assert torch.equal(rows[-2], tensor[-2])
    assert torch.equal(torch.stack([*rows]), tensor)
    loader = torch.utils.data.DataLoader(rows, batch_size=4)
    assert torch.equal(torch.cat([*loader]), tensor)
    with pytest.raises(IndexError, match=r"a mask of shape \(6,\)"):
        rows[mask[1:]]
    with pytest.raises(IndexError, match="expected row numbers"):
        rows[[0.5]]


def test_a_large_sample_of_large_rows_has_fewer(mapped, monkeypatch):
    monkeypatch.setattr(streamed_rows, "_MOST_VALUES", 6 * 300)
    rows = Rows(ArrayFile.of(mapped(numbers(1000, 6))))
    assert [len(some(rows, n)) for n in (7, 1000)] == [7, 300]
    monkeypatch.setattr(streamed_rows, "_MOST_VALUES", 6)
    assert len(some(rows, 1000)) == 256


def test_a_part_of_rows_reads_nothing(mapped):
    x = mapped(numbers(30, 2))
    rows = Rows(ArrayFile.of(x))
    tail = part(part(rows, slice(10, None)), np.array([4, 19, 0]))
    assert torch.equal(tail[:], torch.tensor(x[[14, 29, 10]]))
    assert len(some(rows, 7)) == 7
    assert torch.equal(some(rows, 99), rows[:])
    assert torch.equal(some(rows, 2), rows[[0, 29]])


def test_rows_are_pickled_without_their_data(mapped):
    data = zoo.Dataset(mapped(numbers(4000, 50)), likelihood="gaussian")
    data.train[:1]  # the file is open
    packed = pickle.dumps(data.test)
    assert (
        len(packed) < 40 * len(data.test) + 4000
    )  # which rows they are, and no values
    assert torch.equal(pickle.loads(packed)[:], data.test[:])


# ------------------------------------------------------------------ a data set of them


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("bernoulli", numbers(40, 3, 2) < 0.5),
        ("gaussian", numbers(40, 5, dtype=np.float64)),
        ("discretized_logistic", (255 * numbers(40, 4, 4, 3)).astype(np.uint8)),
        ("discretized_logistic", (numbers(40, 6) < 0.5).astype(np.uint8)),
        ("poisson", (9 * numbers(40, 6)).astype(np.int64)),
    ],
    ids=["bits", "float64", "colour", "bits as bytes", "counts"],
)
def test_a_mapped_data_set_is_that_in_memory(mapped, kind, array):
    here = zoo.Dataset(array, likelihood=kind)
    there = zoo.Dataset(mapped(array), likelihood=kind)
    assert repr(there) == repr(here)
    for split in ("train", "valid", "test"):
        assert isinstance(getattr(there, split), Rows)
        assert torch.equal(getattr(there, split)[:], getattr(here, split))
    assert torch.equal(there.first(7).train[:], here.first(7).train)
    assert there.is_quantised() == here.is_quantised()
    assert isinstance(there.to("cpu").train, Rows)


def test_counts_of_16_bits_are_asked_about(mapped):
    counts = (9 * numbers(40, 6)).astype(np.uint16)
    for array in (mapped(counts), counts, torch.from_numpy(counts)):
        with pytest.raises(zoo.UserError, match="whole numbers only, from 0 to 8"):
            zoo.Dataset.split(array)
        data = zoo.Dataset.split(array, likelihood="poisson")
        assert data.train[:].max() == 8


def test_units_of_a_mapped_table_are_those_in_memory(mapped, monkeypatch):
    monkeypatch.setattr(standardised, "_MOST_VALUES", 3 * 5000)
    array = numbers(12_000, 3, dtype=np.float64) * [1, 100, 1e-3] + [0, 5e5, 0]
    how = {"likelihood": "gaussian", "standardise": True}
    here, there = zoo.Dataset(array, **how), zoo.Dataset(mapped(array), **how)
    one, other = here.standardisation, there.standardisation
    torch.testing.assert_close(other.mean, one.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(other.scale, one.scale, rtol=1e-9, atol=0)
    torch.testing.assert_close(there.test[:], here.test)


def test_a_copy_on_write_map_is_taken_into_memory(tmp_path):
    np.save(tmp_path / "x.npy", numbers(30, 2))
    array = np.load(tmp_path / "x.npy", mmap_mode="c")
    array[:] = 0  # which the file does not know
    data = zoo.Dataset(array, likelihood="gaussian")
    assert data.train.count_nonzero() == 0


def test_a_bad_value_is_found_where_it_is_read(mapped):
    array = numbers(20_000, 3)
    array[12345, 1] = np.nan
    data = zoo.Dataset(mapped(array), likelihood="gaussian")
    whole = Rows(data.train.source, steps=data.train.steps)
    assert len(whole[12000:12345]) == 345
    said = (
        "row 12345 of x.npy: train: expected finite values, got 1 NaN .* of 3; remove"
    )
    with pytest.raises(zoo.UserError, match=said):
        whole[12000:13000]


@pytest.mark.parametrize(
    ("first", "later", "kind", "said"),
    [
        (0.0, 0.5, "bernoulli", "row 700 .* grey pixels"),
        (1.0, 1.5, "poisson", "row 700 .* whole numbers"),
        (
            1.0,
            7.0,
            "discretized_logistic",
            "row 700 .* up to 7, in a sample .* bits or",
        ),
    ],
)
def test_what_a_sample_does_not_show_is_refused_later(mapped, first, later, kind, said):
    array = np.full((1000, 2), first)
    array[::2] = 0
    array[700] = later
    array = array.astype(np.uint8 if kind == "discretized_logistic" else np.float32)
    data = zoo.Dataset(*[mapped(array)] * 3, likelihood=kind)
    with pytest.raises(zoo.UserError, match=said):
        list(data.train.split(100))


def test_a_file_that_is_cut_off_or_gone(mapped, tmp_path):
    rows = Rows(ArrayFile.of(mapped(numbers(4000, 50))))
    rows[:1]
    os.truncate(tmp_path / "x.npy", 400_000)
    with pytest.raises(
        zoo.DataFileError, match="ends before row 3000 does: was it cut"
    ):
        rows[[5, 3000]]
    (tmp_path / "x.npy").unlink()
    with pytest.raises(zoo.DataFileError, match="cannot read .*x.npy .*was it moved"):
        pickle.loads(pickle.dumps(rows))[:1]
    with pytest.raises(zoo.DataFileError, match="no.npy"):
        ArrayFile.open(tmp_path / "no.npy")
    (tmp_path / "no.npy").write_bytes(b"not an array")
    with pytest.raises(zoo.DataFileError, match="expected an array as np.save"):
        ArrayFile.open(tmp_path / "no.npy")


def test_a_change_of_the_file_changes_the_fingerprint(mapped, tmp_path):
    array = numbers(5000, 3)
    data = zoo.Dataset(mapped(array), likelihood="gaussian")
    before = data.fingerprint()
    assert data.fingerprint() == before
    array[777, 1] += 1  # no row of the sample, in a file of the same size
    mapped(array)
    assert data.fingerprint() != before


def test_reading_a_file_takes_no_memory(mapped):
    """Of 32 MB on disk: neither its orders, nor its checks, nor a pass over all of it."""
    data = zoo.Dataset(*[mapped(numbers(10_000, 800))] * 3, likelihood="gaussian")
    tracemalloc.start()
    data.fingerprint()
    for x in data.epoch(0, 0).split(100):
        assert len(x) == 100
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6
    with open("/proc/self/status") as file:
        before = anonymous(file)
    total = sum(x.sum().item() for x in data.train.split(100))
    with open("/proc/self/status") as file:
        assert anonymous(file) - before < 8e6
    assert total > 0


def anonymous(file):
    """Bytes of the process's own, without what the system caches of files."""
    lines = dict(line.split(":", 1) for line in file)
    return 1024 * int(lines["RssAnon"].split()[0])


# ------------------------------------------------------------------ what is random


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000, 4097])
def test_a_keyed_order_is_a_permutation(n):
    order = KeyedOrder(n, seed=5)
    assert sorted(order[:].tolist()) == list(range(n))
    assert torch.equal(order[n // 3 : n // 2], order[:][n // 3 : n // 2])


def test_keyed_orders_are_uniform_and_their_own():
    """Chi-squared of where 0 and 17 of 50 land, of 49 degrees of freedom, both ways."""
    orders = torch.stack([KeyedOrder(50, seed)[:] for seed in range(2000)])
    for row in (orders[:, 0], orders[:, 17], (orders == 17).int().argmax(1)):
        counts = row.bincount(minlength=50).double()
        assert ((counts - 40) ** 2 / 40).sum() < 100  # p = 2e-5
    assert len(orders.unique(dim=0)) == 2000


def test_the_order_of_very_many_rows_takes_no_memory(monkeypatch):
    tracemalloc.start()
    order = permutation(10**8, seed=1)
    places = [order[i : i + 100] for i in (0, 5 * 10**7, 10**8 - 100)]
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    assert all(0 <= p.min() and p.max() < 10**8 for p in places)
    assert isinstance(permutation(1000, seed=1), torch.Tensor)
    monkeypatch.setattr(randomness, "MOST_LISTED", 999)
    assert isinstance(permutation(1000, seed=1), KeyedOrder)


def test_noise_is_a_function_of_key_and_row():
    key, other = digest_of(0, 0), digest_of(0, 1)
    rows = np.array([3, 10**9, 5])
    noise = uniform_rows(key, rows, 1001)
    assert torch.equal(noise[1:2], uniform_rows(key, rows[1:2], 1001))
    assert not torch.equal(noise, uniform_rows(other, rows, 1001))
    assert noise.min() >= 0
    assert noise.max() < 1
    many = uniform_rows(key, np.arange(300), 1000).double()
    assert abs(many.mean() - 0.5) < 5 * (1 / 12 / 3e5) ** 0.5
    correlation = torch.corrcoef(many)
    assert (correlation - torch.eye(300)).abs().max() < 6 / 1000**0.5


def test_binarisation_is_a_function_of_seed_epoch_and_row(mapped):
    grey = numbers(60, 4, 5)
    data = zoo.Dataset(mapped(grey), dynamic=True)
    epoch = data.epoch(3, 1)
    x = epoch[:]
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(torch.cat(list(epoch.split(7))), x)
    assert torch.equal(epoch[[30, 2]], x[[30, 2]])
    assert torch.equal(data.first(5).epoch(3, 1)[:], x[:5])
    assert torch.equal(torch.cat([*data.read_by(2).epoch(3, 1).split(9)]), x)
    assert not torch.equal(data.epoch(3, 2)[:], x)
    assert not torch.equal(data.epoch(4, 1)[:], x)
    mean = torch.stack([data.epoch(0, k)[:] for k in range(400)]).mean(0)
    assert (mean - data.train[:]).abs().max() < 5 * (0.25 / 400) ** 0.5
    assert torch.equal(data.valid[:], data.valid[:])  # drawn once
    assert set(data.valid[:].unique().tolist()) == {0.0, 1.0}


def test_grey_levels_to_judge_by_are_drawn_once(mapped):
    grey = numbers(60, 4, 5)
    bits = (grey > 0.5).astype(np.float32)
    x = mapped(grey)
    data = zoo.Dataset(x, x, mapped(bits, "bits.npy"), dynamic=True)
    valid = data.valid[:]
    assert set(valid.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(data.valid[[7, 3]], valid[[7, 3]])
    assert torch.equal(data.test[:], torch.from_numpy(bits))


def test_dequantisation_is_one_too(mapped):
    grey = (255 * numbers(60, 6)).astype(np.uint8)
    data = zoo.Dataset(
        mapped(grey / np.float32(255)), likelihood="gaussian", logit=0.05
    )
    y = data.epoch(0, 2)[:]
    assert torch.equal(torch.cat([*data.epoch(0, 2).split(7)]), y)
    levels = (data.pixels(y) * 256).floor()
    assert torch.equal(levels, (data.train[:] * 255).round())
    assert torch.equal(data.test[:], data.test[:])
    whole = data.bits_per_dim(-3.0, data.test[:])
    assert data.bits_per_dim(-3.0, data.test) == pytest.approx(whole)


# ------------------------------------------------------------------ PyTorch's data sets


def test_items_are_random_by_seed_epoch_and_index():
    rows = Rows(Items(Shifted()))
    data = zoo.Dataset(rows, rows, rows, likelihood="gaussian")
    before = random.getstate(), torch.get_rng_state()
    x = data.epoch(1, 0)[:]
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert x.shape == (12, 2)
    moved = x - Shifted().x
    assert len(moved[:, 0].unique()) == 12
    assert torch.equal(data.epoch(1, 0)[[5, 3]], x[[5, 3]])
    assert not torch.equal(data.epoch(1, 1)[:], x)
    assert torch.equal(torch.cat([*data.read_by(2).epoch(1, 0).split(5)]), x)
    assert torch.equal(data.valid[:], data.valid[:])
    assert data.fingerprint() == data.fingerprint()


class Broken(Shifted):
    """A data set with an item that cannot be read, and one of another shape."""

    def __getitem__(self, i):
        if i == 7:
            raise OSError("truncated picture")
        return torch.zeros(3 if i == 4 else 2), 0


@pytest.mark.parametrize("num_workers", [0, 1])
def test_items_that_cannot_be_read_are_named(num_workers):
    rows = Rows(Items(Broken(), "photos"), num_workers=num_workers)
    with pytest.raises(zoo.UserError) as error:
        list(rows.part(slice(5, 9)).split(4))
    said = "row 7 of photos cannot be read: OSError: truncated picture"
    assert str(error.value) == said
    with pytest.raises(
        zoo.UserError, match="row 4 of photos: expected torch.float32 of"
    ):
        list(rows.part(slice(0, 6)).split(6))


# ------------------------------------------------------------------ processes


class Slow(Shifted):
    def __getitem__(self, i):
        time.sleep(60 if i > 3 else 0)
        return super().__getitem__(i)


def test_processes_end_at_once_and_heed_no_signal_until_then():
    before = set(multiprocessing.active_children())
    batches = read_ahead(Rows(Items(Slow())), [[0], [1], [2], [3], [9], [10]], 2)
    assert len(next(batches)) == 1
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    for worker in workers:  # as Ctrl-C and a batch system do, to all of a group
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
    assert [len(next(batches)) for _ in range(3)] == [1, 1, 1]
    begun = time.monotonic()
    batches.close()  # while both are in the middle of a row
    assert time.monotonic() - begun < 3
    assert not set(multiprocessing.active_children()) & workers


def test_a_process_that_is_killed_is_told_of():
    before = set(multiprocessing.active_children())
    batches = read_ahead(Rows(Items(Slow())), [[0], [9]], 1)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    worker.kill()
    with pytest.raises(zoo.UserError, match="a process that reads data has died"):
        next(batches)


def test_a_file_is_read_ahead_by_a_thread_and_code_of_the_users_is_not():
    threads = []

    class Watched:
        """Rows that tell which thread reads them."""

        def __init__(self, is_of_file):
            self.is_of_file = is_of_file

        def read(self, place):
            threads.append(threading.current_thread())
            return torch.tensor([place])

        def finished(self, x, place):
            assert threading.current_thread() is threading.main_thread()
            return x

    for is_of_file in (True, False):
        threads.clear()
        ahead = read_ahead(Watched(is_of_file), iter(range(9)), 0)
        assert [next(ahead).item() for _ in range(4)] == [0, 1, 2, 3]
        ahead.close()  # in the middle
        here = [thread is threading.main_thread() for thread in threads]
        assert here == ([False] * 6 if is_of_file else [True] * 4)
    assert not any(t.is_alive() for t in threads if t is not threading.main_thread())
