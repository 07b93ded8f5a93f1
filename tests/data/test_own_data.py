"""Data of a user's own: what each kind becomes, and one clear line where it cannot."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

import pyro_vae_zoo as zoo
from pyro_vae_zoo.runs.folder import fingerprint_of

RANDOM = np.random.RandomState(0)
REAL = RANDOM.randn(40, 3)


def save(array, path, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array, mode).save(path)
    return path


def levels(*shape):
    return np.random.RandomState(sum(shape)).randint(0, 256, shape).astype(np.uint8)


def pictures(root, classes=("cat", "dog"), each=10, shape=(4, 6, 3)):
    for c, name in enumerate(classes):
        for i in range(each):
            save(levels(*shape) // 2 + 100 * c, root / name / f"{i}.png")
    return root


def table(path, *lines):
    path.write_text("\n".join(lines))
    return path


# --- what is there ------------------------------------------------------------


def test_splits_that_are_not_given_are_taken_off_train():
    x = torch.arange(50.0)[:, None] / 7
    data = zoo.Dataset(x, likelihood="gaussian", labels=list(range(50)))
    assert [len(s) for s in (data.train, data.valid, data.test)] == [40, 5, 5]
    assert "valid and test are each 10 % of train (seed 0), 40/5/5" in data.variant
    every = torch.cat([data.train, data.valid, data.test])
    assert torch.equal(every.sort(0).values, x)
    for split, values in data.labels.items():  # which went with their data
        assert torch.equal(values[:, None] / 7, getattr(data, split))
    one = zoo.Dataset(x, test=x[:3], likelihood="gaussian", valid=0.2)
    assert [len(s) for s in (one.train, one.valid, one.test)] == [40, 10, 3]
    # As an archive without `valid` has always had it.
    order = np.random.RandomState(0).permutation(50)
    assert torch.equal(one.valid, x[torch.from_numpy(order[:10])])


def test_the_variant_names_what_a_density_is_of(tmp_path):
    """Densities of two logits are of two spaces, and were called the same."""
    np.savez(path := tmp_path / "x.npz", train=levels(40, 3))
    read = zoo.load_dataset
    variants = [
        read(str(path), options={"likelihood": "gaussian"} | options).variant
        for options in ({}, {"logit": 0.05}, {"logit": 0.3})
    ]
    assert [", logit " in v for v in variants] == [False, True, True]
    assert len({*variants}) == 3
    bits = torch.eye(20)
    static, dynamic = (zoo.Dataset(bits, dynamic=d).variant for d in (False, True))
    assert static.startswith("user's tensors, valid")
    assert dynamic.startswith("user's tensors, probabilities, valid")


@pytest.mark.parametrize(
    "x", [torch.zeros(20, 3, dtype=torch.complex64), torch.eye(20).to_sparse()]
)
def test_what_has_no_least_value_is_refused(x):
    with pytest.raises(zoo.UserError, match="complex64|layout torch.sparse_coo"):
        zoo.Dataset.split(x)


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_item_has_two_parts_at_most(in_memory):
    x = torch.rand(20, 3)
    with pytest.raises(
        zoo.UserError, match=r"row \d+.*expected x or \(x, y\), got 3 parts"
    ):
        zoo.Dataset.from_torch(TensorDataset(x, x, x), in_memory=in_memory)


def test_truth_values_may_have_names():
    truth = np.arange(20) % 2 == 1
    data = zoo.Dataset(torch.eye(20), labels=truth, label_names=("no", "yes"))
    assert data.label_names == ("no", "yes")
    same = zoo.Dataset(
        torch.eye(20), labels=truth.astype(int), label_names=("no", "yes")
    )
    assert torch.equal(data.labels["train"], same.labels["train"])
    turned = zoo.Dataset(torch.eye(20), labels=truth, label_names=("True", "False"))
    assert torch.equal(turned.labels["train"], 1 - data.labels["train"])


def test_a_share_may_be_any_real_number():
    data = zoo.Dataset(torch.eye(20), valid=np.float32(0.25))
    assert len(data.valid) == 5


def test_a_data_set_owns_its_values():
    for x in (REAL.astype(np.float32), torch.from_numpy(REAL).float()):
        data = zoo.Dataset(x, x[:3], x[3:6], "gaussian", labels=[0, 1] * 20)
        before = data.train.clone(), data.test.clone()
        x[:] = 7
        assert torch.equal(data.train, before[0])
        assert torch.equal(data.test, before[1])


def test_labels_are_numbers_of_their_names():
    x = torch.from_numpy(REAL)
    for labels, names, first in (
        (["b", "a"] * 20, ("a", "b"), 1),
        ([3, 7] * 20, ("3", "7"), 0),
        (np.array([True, False] * 20), ("False", "True"), 1),
        (pd.Series(["u", "v"] * 20, dtype="category"), ("u", "v"), 0),
        (torch.tensor([0, 1] * 20), ("0", "1"), 0),
    ):
        data = zoo.Dataset(x, x, x, "gaussian", labels=labels)
        assert data.label_names == names
        assert data.labels["train"][0] == first
        assert data.labels["train"].dtype == torch.int64
        assert list(data.labels) == ["train"]
        assert len(data.first(5).labels["train"]) == 5
        plain = zoo.Dataset(x, x, x, "gaussian")
        assert data.fingerprint() == plain.fingerprint()
    named = zoo.Dataset(x, x, x, "gaussian", labels=[2, 0] * 20, label_names="abc")
    assert named.label_names == ("a", "b", "c")
    with pytest.raises(zoo.UserError, match="one for each class, got 'a' twice"):
        zoo.Dataset(x, x, x, "gaussian", labels=[2, 0] * 20, label_names="aba")
    assert named.labels["train"][:2].tolist() == [2, 0]


def test_labels_of_splits_may_be_stored_in_different_ways():
    x, few, many = torch.rand(6, 2), np.array([2, 0] * 3, np.uint8), [0, 1, 2] * 2
    labels = {"train": many, "test": few}
    data = zoo.Dataset(x, x, x, "gaussian", labels=labels)
    assert data.labels["test"].tolist() == few.tolist()
    assert data.label_names == ("0", "1", "2")


def test_published_labels_are_found_in_the_same_place():
    data = zoo.load_dataset("digits_binary")
    assert {s: len(v) for s, v in data.labels.items()} == {
        "train": 1297,
        "valid": 250,
        "test": 250,
    }
    assert data.label_names == tuple("0123456789")


def test_probabilities_that_are_taken_off_are_drawn_once():
    data = zoo.Dataset(torch.rand(50, 4), dynamic=True)
    assert set(data.valid.unique().tolist()) <= {0.0, 1.0}
    assert data.train.unique().numel() > 2


def test_split_asks_values_what_they_are():
    split = zoo.Dataset.split
    assert split(REAL).likelihood == "gaussian"
    assert split(levels(30, 4, 4)).likelihood == "discretized_logistic"
    assert split(REAL > 0).likelihood == "bernoulli"
    assert split((REAL > 0).astype(float)).likelihood == "bernoulli"
    counts = RANDOM.poisson(3, (30, 4))
    for whole in (counts, counts.astype(float)):
        with pytest.raises(zoo.UserError, match="whole numbers only.*'poisson'"):
            split(whole)
    assert split(counts, likelihood="poisson").train.max() > 1


def test_a_folder_of_coloured_images_in_classes(tmp_path):
    data = zoo.Dataset.from_folder(pictures(tmp_path / "pets"))
    assert (data.name, data.event_shape) == ("pets", (3, 4, 6))
    assert data.likelihood == "discretized_logistic"
    assert data.label_names == ("cat", "dog")
    assert [len(x) for x in (data.train, data.valid, data.test)] == [16, 2, 2]
    for split, values in data.labels.items():
        bright = getattr(data, split).flatten(1).mean(1) > 0.45
        assert torch.equal(values, bright.long())
    image = np.asarray(Image.open(tmp_path / "pets" / "cat" / "0.png"))
    every = torch.cat([data.train, data.valid, data.test])
    expected = torch.from_numpy(image.transpose(2, 0, 1) / 255).float()
    assert any(torch.equal(x, expected) for x in every)
    grey = zoo.load_dataset(tmp_path / "pets", options={"grey": True, "size": 5})
    assert grey.event_shape == (5, 5)
    assert "resized to 5x5" in grey.variant
    wide = zoo.Dataset.from_folder(tmp_path / "pets", size=(3, 8))
    assert wide.event_shape == (3, 3, 8)  # channels, height, width


def test_a_folder_of_splits(tmp_path):
    for split, n in (("train", 5), ("val", 2), ("test", 3)):
        for i in range(n):
            save(255 * (levels(3, 3) % 2), tmp_path / "x" / split / f"{i}.png")
    data = zoo.Dataset.from_folder(tmp_path / "x")
    assert [len(x) for x in (data.train, data.valid, data.test)] == [5, 2, 3]
    assert data.likelihood == "bernoulli"  # black and white
    assert data.labels is None
    save(levels(3, 3), tmp_path / "x" / "train" / "9.png")
    with pytest.raises(zoo.DataFileError, match="threshold=0.5, or dynamic=True"):
        zoo.Dataset.from_folder(tmp_path / "x", likelihood="bernoulli")
    data = zoo.Dataset.from_folder(tmp_path / "x", threshold=0.5)
    assert "level > 0.5 of white" in data.variant
    dark, light = levels(3, 3) // 3, 255 - levels(3, 3) // 3
    for split in ("train", "val", "test"):
        save(
            np.where(levels(3, 3) > 127, light, dark), tmp_path / "y" / split / "0.png"
        )
    data = zoo.Dataset.from_folder(tmp_path / "y", threshold=0.5)
    assert torch.equal(data.test[0], torch.from_numpy(levels(3, 3) > 127).float())
    assert zoo.Dataset.from_folder(tmp_path / "x", dynamic=True).dynamic


def test_a_table_with_labels_and_an_index(tmp_path):
    rows = [f"{i},{x[0]},{x[1]},{'ab'[i % 2]}" for i, x in enumerate(REAL)]
    path = table(tmp_path / "t.csv", ",one,two,kind", *rows)
    with pytest.raises(zoo.DataFileError, match="numbers the rows.*drop='#1'"):
        zoo.load_dataset(path, options={"labels": "kind"})
    data = zoo.load_dataset(path, options={"labels": "kind", "drop": "#1"})
    assert data.event_shape == (2,)
    every = torch.cat([data.train, data.valid, data.test]).sort(0).values
    assert torch.equal(every, torch.from_numpy(np.sort(REAL[:, :2], 0)).float())
    assert data.label_names == ("a", "b")
    with pytest.raises(zoo.DataFileError, match="names or data.*header=True"):
        zoo.load_dataset(table(tmp_path / "v.csv", *rows))
    bare = table(tmp_path / "u.tsv", *(row.replace(",", "\t") for row in rows))
    same = zoo.load_dataset(
        bare, options={"labels": -1, "drop": ["#1"], "header": False}
    )
    assert torch.equal(same.train, data.train)


def test_an_index_of_rows_in_any_order_is_no_feature(tmp_path):
    frame = pd.DataFrame(REAL, columns=list("abc"))
    frame[frame.a > 0].sort_values("b").to_csv(tmp_path / "f.csv")
    with pytest.raises(zoo.DataFileError, match="numbers the rows.*drop='#1'"):
        zoo.Dataset.from_csv(tmp_path / "f.csv")
    again = pd.read_csv(tmp_path / "f.csv")
    with pytest.raises(zoo.UserError, match="numbers the rows.*drop='Unnamed: 0'"):
        zoo.Dataset.from_frame(again)
    assert zoo.Dataset.from_frame(again, drop="Unnamed: 0").event_shape == (3,)


def test_codes_are_words_and_no_numbers(tmp_path):
    rows = [f"{x},{i % 2}_{i % 3}" for i, x in enumerate(REAL[:, 0])]
    path = table(tmp_path / "t.csv", "x,code", *rows)
    names = "0_0", "0_1", "0_2", "1_0", "1_1", "1_2"
    assert zoo.Dataset.from_csv(path, labels="code").label_names == names
    with pytest.raises(zoo.DataFileError, match="column 'code'.*got '0_0'"):
        zoo.Dataset.from_csv(path)
    rows = [f"{x},{('1', '01', '2')[i % 3]}" for i, x in enumerate(REAL[:, 0])]
    path = table(tmp_path / "u.csv", "x,code", *rows)
    assert zoo.Dataset.from_csv(path, labels="code").label_names == ("01", "1", "2")


def test_a_data_frame_is_its_table(tmp_path):
    frame = pd.DataFrame(REAL, columns=list("abc")).assign(kind=["u", "v"] * 20)
    data = zoo.Dataset.from_frame(frame, labels="kind", drop="b", standardise=True)
    assert data.event_shape == (2,)
    assert torch.allclose(data.train.mean(0), torch.zeros(2), atol=1e-6)
    frame.to_csv(tmp_path / "f.csv", index=False)
    same = zoo.Dataset.from_csv(
        tmp_path / "f.csv", labels="kind", drop="b", standardise=True
    )
    assert torch.equal(data.train, same.train)
    assert torch.equal(data.labels["test"], same.labels["test"])
    frame.loc[3, "kind"] = None
    with pytest.raises(
        zoo.UserError, match="row 3, column 'kind'.*1 of 40 are missing"
    ):
        zoo.Dataset.from_frame(frame, labels="kind")


def test_data_sets_of_torch_are_read(tmp_path):
    class Pets(TorchDataset):
        classes = ("cat", "dog")

        def __len__(self):
            return 20

        def __getitem__(self, i):
            return Image.fromarray(levels(4, 5, 3 if i >= 0 else i)), i % 2

    data = zoo.Dataset.from_torch(Pets(), name="pets")
    assert data.event_shape == (3, 4, 5)
    assert data.label_names == ("cat", "dog")
    x = TensorDataset(torch.from_numpy(REAL), torch.from_numpy(REAL[:, 0]))
    with pytest.raises(zoo.UserError, match="train: .*y of row 0.*labels=False"):
        zoo.Dataset.from_torch(x)
    data = zoo.Dataset.from_torch(x, labels=False, valid=x)
    assert (len(data.valid), data.labels) == (40, None)


def test_a_number_of_classes_is_not_their_names():
    class Numbered(TensorDataset):
        classes = 2

    data = zoo.Dataset.from_torch(Numbered(torch.rand(20, 3), torch.arange(20) % 2))
    assert data.label_names == ("0", "1")


def test_an_archive_has_its_labels(tmp_path):
    np.savez(tmp_path / "a.npz", x=REAL, labels=np.array(["p", "q"] * 20))
    data = zoo.load_dataset(tmp_path / "a.npz")
    assert data.label_names == ("p", "q")
    assert [len(v) for v in data.labels.values()] == [32, 4, 4]
    np.save(tmp_path / "a.npy", REAL)
    assert torch.equal(zoo.load_dataset(tmp_path / "a.npy").train, data.train)
    counts = RANDOM.poisson(3, (30, 4))
    np.savez(tmp_path / "b.npz", train=counts, test=counts)
    with pytest.raises(zoo.DataFileError, match="b.npz.*'poisson'"):
        zoo.load_dataset(tmp_path / "b.npz")
    data = zoo.load_dataset(tmp_path / "b.npz", options={"likelihood": "poisson"})
    assert "b.npz, as poisson" in data.variant


# --- what is wrong ------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.ma.masked_less(REAL, -2.2), "1 masked, the first in row 6"),
        (np.where(np.arange(40)[:, None] == 4, np.nan, REAL), "3 NaN.*first in row 4"),
        (np.where(REAL > 2.2, np.inf, REAL), "2 NaN or infinite"),
        (REAL.astype(object), "dtype object"),
        (REAL.astype(complex), "dtype complex"),
        (pd.DataFrame(REAL), "DataFrame; give.*from_frame"),
        (
            REAL * 1e-3 + 1e9,
            r"row 0, feature 0 has the same float32.*standardise",
        ),
        (REAL * 1e60, "has the same float32|infinite"),
    ],
    ids=["masked", "nan", "inf", "object", "complex", "frame", "offset", "large"],
)
def test_values_that_cannot_be_represented(x, words):
    with pytest.raises(zoo.UserError, match=f"train: .*{words}"):
        zoo.Dataset(x, likelihood="gaussian")


def test_a_mask_without_a_masked_value_is_no_mask():
    data = zoo.Dataset(np.ma.array(REAL), likelihood="gaussian")
    assert torch.equal(data.train, zoo.Dataset(REAL, likelihood="gaussian").train)


def test_large_counts_are_refused_where_they_would_be_rounded():
    counts = np.full((30, 2), 2**24)
    assert zoo.Dataset(counts, likelihood="poisson").train.max() == 2**24
    counts[7, 1] += 1
    with pytest.raises(zoo.UserError, match="16777217 in row 7, feature 1"):
        zoo.Dataset(counts, likelihood="poisson")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1] * 40, "at least two classes, got only '1'"),
        ("gaussian", "got .gaussian.; a likelihood is given as likelihood=.gaussian."),
        ([1, 2], "expected 40, one for each datum"),
        ([0.5] * 40, "whole numbers or words, got float64"),
        (["a"] * 39 + [None], "row 39, got None"),
        (["a"] * 39 + [1], "words or numbers, got both"),
        ({"test": [0, 1]}, "expected labels of train"),
    ],
)
def test_labels_that_are_none(labels, words):
    with pytest.raises(zoo.UserError, match=f"labels.*{words}"):
        zoo.Dataset(REAL, likelihood="gaussian", labels=np.array(labels, object)
                    if labels == ["a"] * 39 + [1] else labels)  # fmt: skip


def test_a_label_that_has_no_name():
    with pytest.raises(zoo.UserError, match="one of the 2 classes, got 2 in row 1"):
        zoo.Dataset(REAL, likelihood="gaussian", labels=[0, 2] * 20, label_names="ab")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a,b", "1.5,x"], r"row 0 \(line 2\), column 'b': expected a finite.*'x'"),
        (["a,b", "1.5,2", "2.5,"], r"row 1 \(line 3\), column 'b'.*an empty field"),
        (["a,b", "1.5,2", "nan,1"], r"row 1 \(line 3\), column 'a'.*'nan'"),
        (["a,b", "1.5,2", "1"], r"row 1 \(line 3\): expected 2 fields, got 1"),
        (["a,a", "1.5,2"], "'a' twice"),
        (["a,b"], "a line of column names only"),
        ([], "an empty file"),
        (["a,b", *["1,2", "3,5"] * 9], "whole numbers only, from 1 to 5"),
        (["a,b", *["1.5,2"] * 2], "at least 3 data"),
        (['"a,b', "1.5,2"], "cannot be read as a table"),
    ],
)
def test_bad_tables(tmp_path, lines, words):
    path = table(tmp_path / "bad.csv", *lines)
    with pytest.raises(zoo.DataFileError, match=f"bad.csv: .*{words}"):
        zoo.load_dataset(path)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (["x"] * 40, "row 0, column 'a': expected numbers, got"),
        ([1.5, None] * 20, r"row 1, column 'a'.*20 of 40"),
        (pd.array([1, None] * 20, "Int64"), "row 1, column 'a'"),
        (pd.date_range("2020", periods=40), "column 'a': expected numbers"),
        ([0.25] * 40, "standardise: column 'a' is 0.25 in all rows.*drop='a'"),
    ],
    ids=["text", "none", "na", "dates", "constant"],
)
def test_bad_frames(column, words):
    frame = pd.DataFrame({"a": column, "b": REAL[:, 0]})
    with pytest.raises(zoo.UserError, match=words):
        zoo.Dataset.from_frame(frame, standardise=True)


def _bad_folder(root, kind):
    pictures(root)
    match kind:
        case "sizes":
            save(levels(5, 6, 3), root / "dog" / "zz.png")
        case "broken":
            path = root / "cat" / "0.png"
            path.write_bytes(path.read_bytes()[:60])
        case "no image":
            (root / "dog" / "3.png").write_text("not a picture")
        case "one class":
            for path in (root / "cat").iterdir():
                path.unlink()
        case "16 bits":
            save(levels(4, 6).astype(np.uint16) * 200, root / "dog" / "3.png")
        case "kinds":
            save(levels(4, 6), root / "dog" / "3.png")
        case "transparent":
            save(levels(4, 6, 4), root / "dog" / "3.png")
        case "both":
            save(levels(4, 6, 3), root / "3.png")
        case "splits and classes":
            (root / "train").mkdir()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("sizes", r"dog/zz.png: expected 4x6 pixels.*0.png, got 5x6; size=6"),
        ("broken", r"cat/0.png: cannot be read as an image"),
        ("no image", r"dog/3.png: cannot be read as an image"),
        ("one class", r"at least two classes, got only dog"),
        ("16 bits", r"dog/3.png: expected 8 bits a pixel.*Dataset.split"),
        ("kinds", r"dog/3.png: expected an image that is coloured.*grey=True"),
        ("transparent", r"dog/3.png: .*without transparent pixels"),
        ("both", r"images or folders of classes, got both: 3.png and cat"),
        ("splits and classes", r"splits or of classes, got both: train and cat, dog"),
    ],
)
def test_bad_folders(tmp_path, kind, words):
    _bad_folder(tmp_path / "pets", kind)
    with pytest.raises(zoo.DataFileError, match=words):
        zoo.load_dataset(tmp_path / "pets")


def test_grey_images_without_a_transparent_pixel_stay_grey(tmp_path):
    for i in range(20):
        image = Image.fromarray(levels(4, 6) // 2)
        image.save(tmp_path / f"{i}.png", transparency=255)  # a level that is not there
    assert zoo.Dataset.from_folder(tmp_path).event_shape == (4, 6)


def test_folders_without_images(tmp_path):
    with pytest.raises(zoo.DataFileError, match="expected images.*it is empty"):
        zoo.load_dataset(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(zoo.DataFileError, match="expected images.*got a.txt"):
        zoo.load_dataset(tmp_path)
    with pytest.raises(zoo.DataFileError, match="expected a folder.*got '.txt'"):
        zoo.load_dataset(tmp_path / "a.txt")
    for name in ("nothing", "a.npy", "a.npz", "a.csv"):
        with pytest.raises(zoo.DataFileError, match="not found: looked for"):
            zoo.load_dataset(tmp_path / name)


def test_options_that_a_kind_does_not_have(tmp_path):
    np.save(tmp_path / "a.npy", REAL)
    with pytest.raises(zoo.UserError, match="'labels'.*known: likelihood, valid"):
        zoo.load_dataset(tmp_path / "a.npy", options={"labels": "x"})
    with pytest.raises(zoo.UserError, match="'digits' takes no data options, got seed"):
        zoo.load_dataset("digits", options={"seed": 1})
    for shares, words in (
        ((0.0, 0.1), "valid: .*share"),
        ((0.6, 0.5), "leave data to train on"),
    ):
        with pytest.raises(zoo.UserError, match=words):
            zoo.Dataset.split(REAL, None, *shares)


@pytest.mark.parametrize(
    "names",
    [("Train", "Test"), ("training", "VALIDATION", "testing"), ("TRAIN", "Val")],
)
def test_folders_of_splits_are_known_in_any_case(names, tmp_path):
    for name in names:
        save_into = tmp_path / name
        for i in range(20):
            save(levels(4, 6), save_into / f"{i}.png")
    data = zoo.Dataset.from_folder(tmp_path)
    assert data.label_names is None
    assert len(data.train) == 20 - 2 * (len(names) == 2)
    assert len(data.valid) == (2 if names[1] == "Test" else 20)


def test_two_folders_of_one_split_are_refused(tmp_path):
    for name in ("train", "val", "validation"):
        save(levels(4, 6), tmp_path / name / "0.png")
    with pytest.raises(zoo.DataFileError, match="expected a folder train"):
        zoo.Dataset.from_folder(tmp_path)


@pytest.mark.parametrize("word", ["no", "off", 0, "None"])
def test_options_that_are_true_or_false_are_no_words(word, tmp_path):
    path = table(tmp_path / "t.csv", "a,b", *(f"{i}.5,{i}.25" for i in range(30)))
    with pytest.raises(zoo.UserError, match="standardise: expected true or false, got"):
        zoo.load_dataset(path, options={"standardise": word})
    assert zoo.load_dataset(path, options={"standardise": True}).standardisation


@pytest.mark.parametrize("seed", [-1, "abc", 1.5, 2**32])
def test_the_seed_of_a_split_is_a_small_whole_number(seed, tmp_path):
    path = table(tmp_path / "t.csv", "a,b", *(f"{i}.5,{i}.25" for i in range(30)))
    with pytest.raises(zoo.UserError, match="seed"):
        zoo.load_dataset(path, options={"seed": seed})


def test_an_archive_knows_the_usual_names_of_validation_data(tmp_path):
    x, path = levels(20, 3), tmp_path / "x.npz"
    np.savez(path, train=x, val=x[:7], testing=x[:3], val_labels=[0, 1, 0, 1, 0, 1, 0])
    data = zoo.load_dataset(path)
    assert [len(s) for s in (data.train, data.valid, data.test)] == [20, 7, 3]
    assert data.labels["valid"].tolist() == [0, 1, 0, 1, 0, 1, 0]
    np.savez(path, train=x, val=x[:7], validation=x[:7])
    with pytest.raises(zoo.DataFileError, match="one split under several names"):
        zoo.load_dataset(path)


def test_images_below_the_folders_of_classes_are_not_passed_over(tmp_path):
    for name in ("cat", "cat/small", "dog"):
        save(levels(4, 6), tmp_path / name / "0.png")
    with pytest.raises(zoo.DataFileError, match="images of class cat right in"):
        zoo.Dataset.from_folder(tmp_path)


@pytest.mark.parametrize("option", ["logit", "threshold"])
def test_options_that_are_numbers_are_no_words(option, tmp_path):
    for i in range(20):
        save(levels(4, 6), tmp_path / f"{i}.png")
    with pytest.raises(zoo.UserError, match=f"{option}: expected a number, got 'abc'"):
        zoo.load_dataset(tmp_path, options={option: "abc"})


def test_a_place_between_columns_is_none(tmp_path):
    path = table(tmp_path / "t.csv", "a,b", *(f"{i}.5,{i}.25" for i in range(30)))
    with pytest.raises(zoo.UserError, match=r"unknown column '1\.5'"):
        zoo.load_dataset(path, options={"drop": 1.5})


def test_the_same_numbers_in_other_units_are_other_data():
    """Log p differs by the logarithm of the unit, though what is trained on does not."""
    x = torch.rand(40, 3)
    a, again, b = (
        zoo.Dataset(k * x, likelihood="gaussian", standardise=True)
        for k in (1, 1, 1024)
    )
    assert torch.equal(a.train, b.train)
    for fingerprint in (zoo.Dataset.fingerprint, fingerprint_of):
        assert fingerprint(a) == fingerprint(again) != fingerprint(b)


def test_centred_data_are_the_same_by_any_number_of_threads():
    """Their mean is rounding, in another order."""
    x = torch.randn(20_000, 64)
    x = torch.cat([x, -x])
    threads = torch.get_num_threads()
    try:
        found = []
        for n in (1, 2):
            torch.set_num_threads(n)
            data = zoo.Dataset(x, x, x, "gaussian", standardise=True)
            found.append(data.standardisation.mean)
    finally:
        torch.set_num_threads(threads)
    assert not found[0].any()
    assert not found[1].any()


def test_rows_are_standardised_under_any_default_device(tmp_path):
    np.save(tmp_path / "x.npy", REAL)
    try:
        torch.set_default_device("meta")
        rows = np.load(tmp_path / "x.npy", mmap_mode="r")
        data = zoo.Dataset(rows, likelihood="gaussian", standardise=True)
    finally:
        torch.set_default_device(None)
    assert data.standardisation.mean.device.type == "cpu"


def test_labels_of_one_split_twice(tmp_path):
    labels = np.arange(len(REAL)) % 2
    np.savez(tmp_path / "a.npz", train=REAL, labels=labels, train_labels=labels)
    with pytest.raises(
        zoo.DataFileError, match="labels of one split twice: .*train_labels"
    ):
        zoo.load_dataset(tmp_path / "a.npz")


def test_bits_of_a_threshold_are_not_drawn_again(tmp_path):
    pictures(tmp_path / "pets")
    with pytest.raises(
        zoo.UserError, match="threshold makes bits .* leave one of them"
    ):
        zoo.Dataset.from_folder(tmp_path / "pets", threshold=0.5, dynamic=True)
