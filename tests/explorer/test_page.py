"""The page: what is on it is right, and what does not fit on it is refused."""

import base64
import copy
import hashlib
import json
import math
import re
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import FAMILIES, one_latent, perturb, quick, small
from pyro.nn import PyroModule
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli import main as cli
from pyro_vae_zoo.data.labels import labels_of
from pyro_vae_zoo.evaluation.evaluate import draw_log_weights
from pyro_vae_zoo.evaluation.grid import GridDensity
from pyro_vae_zoo.evaluation.statistics import principal_axes
from pyro_vae_zoo.explorer import decoder as portable
from pyro_vae_zoo.explorer.page import page_contents, page_of
from pyro_vae_zoo.nn.likelihoods import LIKELIHOODS, make_likelihood
from pyro_vae_zoo.nn.networks import make_decoder
from pyro_vae_zoo.nn.own import own_decoder
from pyro_vae_zoo.plots.posterior import region_edges

NETWORKS = [("mlp", "relu"), ("mlp", "elu"), ("mlp", "tanh")]
NETWORKS += [("gated_mlp", "relu"), ("resnet", "elu"), ("conv", "relu")]


def bits(n=20):
    return torch.rand(n, 2, 3).bernoulli()


# ------------------------------------------------------------------ decoders as data


@pytest.mark.parametrize(("network", "activation"), NETWORKS)
def test_a_decoder_as_data_decodes_the_same(network, activation):
    decoder = make_decoder(network, 3, (4, 5), 2, (7, 11, 11), activation)
    if network != "conv":  # whose numbers would grow from layer to layer
        perturb(decoder)
    rounded = copy.deepcopy(decoder).half().double()
    z = torch.randn(50, 3).double()
    found = portable.apply(portable.layers_of(decoder, torch.zeros(1, 3)), z.numpy())
    np.testing.assert_allclose(found, rounded(z).detach(), rtol=0, atol=1e-12)
    exact = decoder.double()(z).detach()
    assert 0 < np.abs(found - exact.numpy()).max() < 0.02  # they are rounded


def test_a_dense_decoder_of_ones_own_as_data():
    hidden = nn.Linear(3, 8), nn.LayerNorm(8), nn.SiLU(), nn.Dropout(), nn.Softplus()
    own = nn.Sequential(*hidden, nn.Linear(8, 20), nn.Flatten())
    perturb(own)
    assert decodes_alike(own_decoder(own.eval(), 3, (4, 5), 1))


CONVOLUTIONS = [
    nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=(0, 1), bias=False),
    nn.ConvTranspose2d(2, 4, (2, 3), stride=(3, 1), padding=(0, 2)),
    nn.Conv2d(2, 4, 3, stride=2, padding=1),
    nn.Conv2d(2, 4, (3, 1), stride=(1, 2), padding=(2, 0), bias=False),
]


@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=str)
def test_convolutions_as_data(convolution):
    parts = nn.Linear(3, 70), nn.Unflatten(1, (2, 5, 7)), convolution, nn.ReLU()
    own = nn.Sequential(*parts, nn.Flatten(), nn.LazyLinear(20))
    own(torch.zeros(1, 3))  # which learns its size
    perturb(own)
    assert decodes_alike(own_decoder(own, 3, (4, 5), 1))


def decodes_alike(decoder):
    z = torch.randn(50, 3)
    layers = portable.layers_of(decoder, z[:1])
    found = portable.apply(layers, z.double().numpy())
    return np.abs(found - decoder(z).detach().numpy()).max() < 1e-2


MEANS = ["bernoulli", "gaussian", "discretized_logistic", "poisson"]
MEANS += ["negative_binomial", partial(LIKELIHOODS["binomial"], total_count=16)]


@pytest.mark.parametrize("likelihood", MEANS)
def test_the_mean_of_each_likelihood(likelihood):
    likelihood = make_likelihood(likelihood, (2, 3))
    params = 3 * torch.randn(9, 6 * likelihood.num_params)
    found = portable.apply(portable.mean_layers(likelihood), params.double().numpy())
    expected = likelihood(params).mean.detach().flatten(1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_mean_of_dequantised_data_is_a_picture():
    grey = torch.randint(256, (9, 2, 3)) / 255
    data = zoo.Dataset(grey, grey, grey, "gaussian", logit=0.05)
    y = 3 * torch.randn(9, 2, 3)
    layers = portable.mean_layers(make_likelihood("gaussian", (2, 3)), data.logit)
    found = portable.apply(layers, y.flatten(1).double().numpy()).clip(0, 1)
    np.testing.assert_allclose(found, data.pixels(y).flatten(1), atol=1e-6)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.GELU()), "a layer GELU of shape (3,)"),
        (nn.ELU(alpha=0.5), "a layer ELU of shape (2,)"),
        (
            nn.Sequential(nn.Unflatten(1, (2, 1, 1)), nn.Conv2d(2, 2, 1, groups=2)),
            "a layer Conv2d of shape (2, 1, 1)",
        ),
        (
            nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Linear(2, 2)),
            "a layer Linear of shape (1, 2)",
        ),
    ],
)
def test_layers_that_have_no_such_form(network, expected):
    with pytest.raises(portable.NoSuchStep, match=re.escape(expected)):
        portable.layers_of(network, torch.zeros(1, 2))


@pytest.mark.parametrize("weight", [1e5, math.nan])
def test_weights_that_16_bits_cannot_hold(weight):
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, weight)
    with pytest.raises(zoo.UserError, match="up to 65504, got"):
        portable.layers_of(layer, torch.zeros(1, 2))


def test_arrays_are_packed_in_little_endian():
    values = np.array([[1.0, -2.0, 0.5]], ">f2")
    packed = json.loads(json.dumps(portable.pack(values)))
    assert (packed["dtype"], packed["shape"]) == ("float16", [1, 3])
    found = np.frombuffer(base64.b64decode(packed["data"]), "<f2")
    np.testing.assert_array_equal(found, values[0])


# --------------------------------------------------------------- codes and posteriors


def test_principal_axes_are_those_of_the_svd():
    codes = torch.randn(200, 5).double() @ torch.randn(5, 5).double() + 3
    centre, axes, sd = principal_axes(codes)
    _, singular, rows = torch.linalg.svd(codes - codes.mean(0), full_matrices=False)
    torch.testing.assert_close(centre, codes.mean(0))
    torch.testing.assert_close(sd, singular / math.sqrt(200))
    torch.testing.assert_close(axes @ axes.T, torch.eye(5).double())
    torch.testing.assert_close((axes * rows).sum(1).abs(), torch.ones(5).double())
    assert (axes.gather(1, axes.abs().argmax(1, keepdim=True)) > 0).all()


def test_fewer_data_than_dimensions_have_all_axes():
    codes = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    _, axes, sd = principal_axes(codes)
    torch.testing.assert_close(axes @ axes.T, torch.eye(3).double())
    torch.testing.assert_close(sd, torch.tensor([1.0, 0, 0]).double())


def test_two_dimensions_keep_their_own_axes():
    codes = torch.randn(50, 2) @ torch.randn(2, 2) + 1
    centre, axes, sd = principal_axes(codes)
    assert centre.tolist() == [0, 0]
    assert axes.tolist() == [[1, 0], [0, 1]]
    torch.testing.assert_close(sd, codes.double().std(0, correction=0))


def test_edges_of_a_gaussians_regions_are_circles():
    t = torch.linspace(-5, 5, 201).double()
    z = torch.cartesian_prod(t, t)
    log_prob = -z.square().sum(1) / 2 - math.log(2 * math.pi)
    density = GridDensity(z, log_prob, log_prob.softmax(0), 201)
    regions = region_edges(density, (0.5, 0.9))
    for mass, lines in zip((0.5, 0.9), regions, strict=True):
        (line,) = lines
        radius = math.sqrt(-2 * math.log(1 - mass))
        np.testing.assert_allclose(np.hypot(*line.T), radius, rtol=0.01)
        np.testing.assert_array_equal(line[0], line[-1])  # closed


@pytest.fixture(scope="module")
def found():
    """The contents of a page of three latents, the pair, its data and their labels."""
    torch.manual_seed(1)
    vae = small("iaf", latent_dim=3, network="gated_mlp")
    perturb(vae)
    x = bits()
    labels = torch.arange(20) % 4
    names = ["a", "b", "</script><script>alert(1)</script>", "d"]
    settings = {"num_data": 6, "num_samples": 30, "seed": 5}
    contents = page_contents(vae, x, "<b>data", "test", labels, names, **settings)
    return vae, x, contents


def test_posteriors_are_those_of_importance_sampling(found):
    vae, x, contents = found
    chosen = [datum["index"] for datum in contents["data"]]
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 6
    log_weights, _ = draw_log_weights(vae, x[chosen], 30, seed=5)
    ll = zoo.log_likelihood(vae, x[chosen], 30, seed=5)
    for k, datum in enumerate(contents["data"]):
        assert datum["elbo"] == pytest.approx(log_weights[k].mean().item())
        assert datum["log_prob"] == pytest.approx(ll.log_prob[k].item())
        assert datum["khat"] == pytest.approx(ll.khat[k].item())
        np.testing.assert_array_equal(datum["image"], 255 * x[chosen[k]].numpy())


def test_coordinates_lead_back_to_the_draws(found):
    vae, x, contents = found
    chosen = [datum["index"] for datum in contents["data"]]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        z = vae.encode(x[chosen], 30).transpose(0, 1).numpy()
    for k, datum in enumerate(contents["data"]):
        u = datum["code"] + datum["draws"].astype(float)
        np.testing.assert_allclose(
            contents["centre"] + u @ contents["axes"], z[k], atol=2e-3
        )
        np.testing.assert_allclose(u.mean(0), datum["code"], atol=1e-3)
        np.testing.assert_allclose(
            contents["codes"][chosen[k]], datum["code"][:2], atol=1e-6
        )


def test_codes_are_means_of_the_guide_where_it_knows_them():
    torch.manual_seed(1)
    vae, x = small("mean_field", latent_dim=3), bits()
    contents = page_contents(vae, x, num_data=1, num_samples=30, seed=5)
    others = [k for k in range(len(x)) if k != contents["data"][0]["index"]]
    u = (vae.embed(x).double().numpy() - contents["centre"]) @ contents["axes"].T
    codes = np.asarray(contents["codes"])
    np.testing.assert_allclose(codes[others], u[others, :2], atol=1e-3)


def test_the_page_says_how_much_its_rounding_costs(found):
    vae, _, contents = found
    assert 0 < contents["error"] < 2e-3
    z = torch.randn(100, 3)
    exact = vae.model.likelihood(vae.model.decoder(z)).mean.detach().flatten(1)
    decoded = portable.apply(contents["layers"], z.double().numpy())
    assert np.abs(decoded - exact.numpy()).max() < 5e-3


def test_a_page_is_what_it_is_for_a_seed(found):
    vae, x, contents = found
    again = page_contents(vae, x, num_data=6, num_samples=30, seed=5)
    other = page_contents(vae, x, num_data=6, num_samples=30, seed=6)
    same = lambda a, b: [d["elbo"] for d in a["data"]] == [d["elbo"] for d in b["data"]]
    assert same(contents, again)
    assert not same(contents, other)


def test_in_two_dimensions_regions_are_outlined():
    vae = small("planar")
    perturb(vae)
    contents = page_contents(vae, bits(), num_data=2, num_samples=500)
    for datum in contents["data"]:
        assert datum["gap"] > 0
        for name in ("exact", "guide"):
            regions = datum[name]
            assert len(regions) == len(contents["masses"]) == 3
            reach = [max(np.abs(line).max() for line in lines) for lines in regions]
            assert reach == sorted(reach)  # the more mass, the wider
        inside = np.abs(datum["draws"]) < reach[-1]
        assert inside.mean() > 0.98


@pytest.mark.parametrize("name", quick(zoo.list_guides(), *FAMILIES))
def test_every_guide_has_a_page_or_is_refused(name):
    if name in one_latent():
        vae = small(name, latent_dim=3)
        contents = page_contents(vae, bits(), num_data=2, num_samples=5)
        assert contents["data"][0]["draws"].shape == (5, 3)
        assert contents["data"][0]["khat"] != contents["data"][0]["khat"]  # too few
        assert page_of(contents).startswith("<!doctype html>")
    else:
        with pytest.raises(zoo.UserError, match="one latent vector 'z', got latents '"):
            page_contents(small(name), bits())


# ------------------------------------------------------------------------- mistakes


class Crooked(nn.Sequential):
    def forward(self, z):
        return super().forward(z) + 1


def crooked():
    vae = small("mean_field", latent_dim=3)
    vae.model.decoder = Crooked(*vae.model.decoder)
    return vae


def diverged():
    vae = small("mean_field", latent_dim=3)
    nn.init.constant_(vae.model.decoder[0].linear.weight, math.nan)
    return vae


class Doubled(nn.Module):
    """A likelihood of one's own."""

    num_params = 1

    def forward(self, params):
        return dist.Normal(2 * params.unflatten(-1, (2, 3)), 1.0).to_event(2)


def own_model():
    """A model without a decoder by that name."""

    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = PyroModule[nn.Linear](3, 6)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
                means = self.net(z).unflatten(-1, (2, 3))
                return pyro.sample("x", dist.Normal(means, 1.0).to_event(2), obs=x)

    return zoo.VAE(Model(), small("mean_field", latent_dim=3).guide, event_shape=(2, 3))


def small_with(**parts):
    return zoo.create("mean_field", event_shape=(2, 3), latent_dim=3, **parts)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (crooked, "with weights of 16 bits the decoded means would be off by"),
        (own_model, "does not support a Model: it has no decoder and likelihood"),
        (
            lambda: small_with(likelihood=Doubled()),
            "does not support the mean of a Doubled",
        ),
        (
            lambda: small_with(decoder=nn.Sequential(nn.Linear(3, 6), nn.GELU())),
            "does not support a layer GELU of shape (6,)",
        ),
    ],
)
def test_what_the_page_does_not_know_it_has_in_the_plane(make, reason):
    vae, x = make(), bits()
    perturb(vae)
    contents = page_contents(vae, x, num_data=2, num_samples=5)
    (step,) = contents["layers"]
    assert reason in contents["table"]
    assert 0 < contents["error"] < 0.02  # of interpolation
    # At the points of the table, and at whatever lies above them, there is no error.
    side, half = step["side"], step["half"]
    i, j = torch.tensor([0, 7, 13, side - 1]), torch.tensor([side - 1, 0, 20, 5])
    u = half * (2 * torch.stack([i, j], 1) / (side - 1) - 1)
    centre, axes = torch.as_tensor(contents["centre"]), torch.as_tensor(step["axes"])
    z = centre + u @ axes
    expected = vae.decode(z).flatten(1).numpy()
    above = z + 3 * torch.as_tensor(contents["axes"])[2]
    for points in (z, above):
        found = portable.apply([step], points.double().numpy())
        np.testing.assert_allclose(found, expected, atol=5e-3)
    outside = centre + 2 * half * torch.ones(2) @ axes
    edge = portable.apply([step], outside.double().numpy()[None])
    np.testing.assert_allclose(edge[0], step["values"][-1], atol=1e-3)


def test_a_table_of_means_in_large_units_is_not_in_16_bits():
    x = 1e6 + 1e5 * torch.randn(20, 6)
    data = zoo.Dataset(x, x, x, "gaussian", standardise=True)
    own = nn.Sequential(nn.Linear(3, 6), nn.GELU())
    vae = zoo.create("mean_field", data, latent_dim=3, decoder=own)
    contents = page_contents(vae, x[:2], data, num_data=2, num_samples=5)
    assert contents["table"]
    assert contents["layers"][0]["values"].dtype == np.float32
    assert contents["error"] < 0.02 * 1e5  # of interpolation, as above


def test_estimates_of_standardised_data_are_in_their_own_units():
    x = 100 * torch.randn(60, 6)
    data = zoo.Dataset(x, x[:20], x[:20], "gaussian", standardise=True)
    vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(4,))
    contents = page_contents(vae, data.test, data, num_data=20, num_samples=200)
    shown = sum(datum["log_prob"] for datum in contents["data"]) / 20
    expected = zoo.log_likelihood(vae, data, 200).log_prob.mean().item()
    assert abs(data.log_jacobian) > 20
    assert shown == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (lambda: small("mean_field", latent_dim=1), {}, "'z' of (1,); train with"),
        (lambda: small("maf"), {}, "got latents none; hierarchies, graphs and density"),
        (diverged, {}, "decoder.0.linear.weight are not finite; did the"),
        (lambda: small("mean_field"), {"num_data": 0}, "num_data must be at least 1"),
        (lambda: small("mean_field"), {"num_samples": 0}, "num_samples must be at least 1"),
        (lambda: small("mean_field"), {"labels": [1, 2]}, "20 labels, one a datum, got 2"),
        (
            lambda: small("mean_field"),
            {"labels": [3] * 20, "classes": ["a", "b"]},
            "from 0 to 1, the number of a class, got 3 to 3",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_on_a_page(make, options, expected, tmp_path):
    vae = make()
    x = torch.zeros(20, *vae.event_shape)
    with pytest.raises(zoo.UserError) as error:
        zoo.explore(vae, x, tmp_path / "page.html", **options)
    assert expected in str(error.value)
    assert not (tmp_path / "page.html").exists()


def test_a_likelihood_of_ones_own_has_no_steps():
    with pytest.raises(portable.NoSuchStep, match="not support the mean of a Identity"):
        portable.mean_layers(nn.Identity())


# ------------------------------------------------------------------------- the file


def test_texts_cannot_leave_their_place(found):
    page = page_of(found[2] | {"title": "<img src=x> & {{contents}}"})
    assert page.count("</script>") == 2  # the contents and the script
    assert "<title>&lt;img src=x&gt; &amp; {{contents}}</title>" in page
    (text,) = re.findall('<script type="application/json".*?>(.*?)</script>', page)
    contents = json.loads(text)
    assert contents["classes"][2] == "</script><script>alert(1)</script>"
    assert contents["about"].startswith("<b>data, test split, 20 data; z of 3")


def test_the_policy_allows_the_pages_own_script_and_style_only(found):
    page = page_of(found[2])
    (policy,) = re.findall('Security-Policy"\\s+content="(.*?)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert "http" not in page.replace("http-equiv", "")
    assert "url(" not in page


def test_numbers_that_are_not_finite_are_null(found):
    contents = found[2]
    datum = contents["data"][0] | {"khat": math.nan}
    page = page_of(contents | {"data": [datum]})
    assert '"khat": null' in page
    assert "NaN," not in page


# --------------------------------------------------------------------------- labels


def test_labels_of_digits_are_those_of_the_images():
    from sklearn.datasets import load_digits

    source, data = load_digits(), zoo.load_dataset("digits_binary")
    p = (source.images.reshape(-1, 64) / 16).clip(1e-3, 1 - 1e-3)
    for split in ("train", "valid", "test"):
        x = getattr(data, split).flatten(1).numpy()
        log_prob = x @ np.log(p).T + (1 - x) @ np.log1p(-p).T
        likeliest = source.target[log_prob.argmax(1)]
        labels = labels_of("digits", split)
        assert len(labels.values) == len(x)
        assert (likeliest == labels.values).mean() > 0.95


@pytest.fixture
def raw(tmp_path):
    """Files of labels in MNIST's format."""
    random = np.random.RandomState(0)
    values = {}
    for folder in ("MNIST", "FashionMNIST"):
        (tmp_path / folder / "raw").mkdir(parents=True)
        for prefix, rows in (("train", 60000), ("t10k", 10000)):
            values[folder, prefix] = y = random.randint(10, size=rows, dtype=np.uint8)
            header = np.array([2049, rows], ">i4").tobytes()
            path = tmp_path / folder / "raw" / f"{prefix}-labels-idx1-ubyte"
            path.write_bytes(header + y.tobytes())
    return tmp_path, values


def test_labels_of_mnist_follow_the_splits(raw):
    folder, values = raw
    train, test = values["MNIST", "train"], values["MNIST", "t10k"]
    got = lambda *args: labels_of(*args, folder).values
    np.testing.assert_array_equal(got("mnist_gray", "train"), train[:50000])
    np.testing.assert_array_equal(got("mnist_dynamic", "valid"), train[50000:])
    np.testing.assert_array_equal(got("mnist_threshold", "valid"), train[48000:])
    np.testing.assert_array_equal(got("mnist_dynamic", "test"), test)
    np.testing.assert_array_equal(got("mnist_static", "test"), np.sort(test))
    clothes = labels_of("fashion_gray", "test", folder)
    np.testing.assert_array_equal(clothes.values, values["FashionMNIST", "t10k"])
    assert clothes.names[9] == "ankle boot"


def test_labels_that_are_not_known(raw, tmp_path):
    folder, _ = raw
    assert labels_of("mnist_static", "train", folder) is None
    assert labels_of("frey_faces", "test", folder) is None
    assert labels_of("digits.npz", "test", folder) is None
    assert labels_of("mnist_static", "test", tmp_path / "nowhere") is None
    assert labels_of("mnist_gray", "test", tmp_path / "nowhere") is None


def test_a_broken_file_of_labels(raw):
    folder, _ = raw
    path = folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(zoo.DataFileError, match="expected 10000 labels"):
        labels_of("mnist_gray", "test", folder)


# ---------------------------------------------------------------- from the command line


def test_the_command_writes_a_page_beside_the_run(tmp_path, capsys):
    folder = tmp_path / "run"
    fast = ["--latent-dim", "3", "--hidden-dims", "8", "--epochs", "1"]
    fast += ["--eval-particles", "10", "--device", "cpu", "--quiet"]
    assert cli.main(["train", *fast, "--out", str(folder)]) == 0
    argv = ["explore", str(folder), "--num-data", "4", "--num-samples", "30"]
    assert cli.main([*argv, "--device", "cpu", "--quiet"]) == 0
    assert "explore.html" in capsys.readouterr().out
    page = (folder / "explore.html").read_text()
    (text,) = re.findall('<script type="application/json".*?>(.*?)</script>', page)
    contents = json.loads(text)
    assert len(contents["data"]) == 4
    assert contents["num_samples"] == 30
    assert contents["classes"] == list("0123456789")
    labels = base64.b64decode(contents["labels"]["data"])
    np.testing.assert_array_equal(
        np.frombuffer(labels, np.uint16), labels_of("digits", "test").values
    )
    assert contents["about"].startswith("digits (pixels set of the 16")
    other = tmp_path / "valid.html"
    argv += ["--split", "valid", "--out", str(other), "--quiet"]
    assert cli.main(argv) == 0
    assert "valid split" in other.read_text()


def test_the_command_refuses_a_hierarchy_in_one_line(tmp_path, capsys):
    folder = tmp_path / "run"
    zoo_vae = ["--guide", "ladder", "--option", "num_layers=2", "--latent-dim", "2"]
    fast = ["--hidden-dims", "8", "--epochs", "1", "--eval-particles", "10"]
    argv = [
        "train",
        *zoo_vae,
        *fast,
        "--device",
        "cpu",
        "--quiet",
        "--out",
        str(folder),
    ]
    assert cli.main(argv) == 0
    assert cli.main(["explore", str(folder), "--device", "cpu", "--quiet"]) == 2
    assert "error: the page needs a pair of one latent" in capsys.readouterr().err
