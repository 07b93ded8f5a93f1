"""The page of data that are not grey levels: curves with an axis, images on their scale."""

import json
import re

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from pairs import perturb, small

import pyro_vae_zoo as zoo
from pyro_vae_zoo.data.scales import UNIT
from pyro_vae_zoo.explorer import decoder as portable
from pyro_vae_zoo.explorer.page import page_contents, page_of

in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a browser: apt-get install chromium"
)
SHAPES = {"table": (4,), "spectrum": (500,), "image": (4, 5), "colour": (3, 4, 5)}
PIXELS = (
    "(c => [c.width, c.height, Array.from(c.getContext('2d').getImageData(0, 0, c.width,"
    " c.height).data)])(document.querySelector('{}'))"
)
BLUE, GREY = (78, 121, 167), (106, 110, 118)


def real_data(shape):
    """Values from -40 to 60."""
    return -40 + 100 * torch.rand(40, *shape)


def contents_of(name, scale=3.0):
    """A page's contents, of a pair whose means leave [0, 1] as the data do."""
    vae = small("mean_field", SHAPES[name], likelihood="gaussian")
    perturb(vae, scale)
    return page_contents(vae, real_data(SHAPES[name]), num_data=3, num_samples=5)


# -------------------------------------------------------------------- what is on it


@pytest.mark.parametrize("name", SHAPES)
def test_real_values_are_on_the_page_as_they_are(name):
    vae = small("mean_field", SHAPES[name], likelihood="gaussian")
    x = real_data(SHAPES[name])
    contents = page_contents(vae, x, num_data=3, num_samples=5)
    for datum in contents["data"]:
        assert datum["image"].dtype == np.float32
        np.testing.assert_array_equal(datum["image"], x[datum["index"]])
    low, high = contents["limits"]
    assert low == pytest.approx(-40, abs=2)
    assert high == pytest.approx(60, abs=2)
    assert contents["shape"] == list(x[0].shape if x.dim() != 3 else (1, *x[0].shape))
    text = re.findall(
        '<script type="application/json".*?>(.*?)</script>', page_of(contents)
    )
    assert json.loads(text[0])["limits"] == [low, high]


def test_the_limits_of_curves_hold_what_is_decoded():
    contents = contents_of("table", scale=12)
    decoded = portable.apply(contents["layers"], contents["codes"].astype(float))
    low, high = contents["limits"]
    air = 0.01 * (high - low)  # for weights of 16 bits
    assert low - air < decoded.min() < decoded.max() < high + air
    assert low < -60  # beyond the data's
    assert high > 80


@pytest.mark.parametrize(
    "likelihood", ["bernoulli", "gaussian", "discretized_logistic"]
)
def test_images_from_0_to_1_keep_8_bits_and_their_scale(likelihood):
    vae = small("mean_field", (4, 5), likelihood=likelihood)
    x = torch.rand(20, 4, 5).round()
    contents = page_contents(vae, x, num_data=3, num_samples=5)
    assert contents["limits"] == list(UNIT)
    assert contents["note"] == ""
    assert contents["data"][0]["image"].dtype == np.uint8


def test_what_is_decoded_has_its_name():
    assert contents_of("image")["decoded"] == "E[x | z]"
    assert contents_of("image")["note"].endswith("(white)")
    grey = torch.randint(256, (20, 4, 5)) / 255
    data = zoo.Dataset(grey, grey, grey, "gaussian", logit=0.05)
    vae = small("mean_field", (4, 5), likelihood="gaussian")
    contents = page_contents(vae, data.test, data, num_data=3, num_samples=5)
    assert contents["decoded"] == "median of x | z"  # the pixel of a mean is no mean
    assert contents["limits"] == list(UNIT)


# ------------------------------------------------------------------- what it shows


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.resize(1200, 800)
        yield browser


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page of a name's data, at a datum; its contents and the browser."""

    def open_page(name, address="#datum=1"):
        contents = contents_of(name)
        path = tmp_path / "page.html"
        path.write_text(page_of(contents), encoding="utf-8")
        browser.open(path, address)
        assert browser.complaints() == []
        return contents, browser

    return open_page


def picture(browser, selector):
    """The pixels of a canvas `(height, width, 4)`."""
    width, height, values = browser.eval(PIXELS.format(selector))
    return np.reshape(values, (height, width, 4)).astype(int)


def rows_of(image, colour):
    """In which rows a colour is."""
    return np.flatnonzero((np.abs(image[..., :3] - colour).sum(-1) < 30).any(1))


@in_browser
@pytest.mark.parametrize("name", ["table", "spectrum"])
def test_a_vector_is_a_curve_between_the_limits(name, opened):
    contents, browser = opened(name)
    low, high = contents["limits"]
    image = picture(browser, "#decoded")
    z = (
        contents["centre"]
        + np.array(browser.eval("Array.from(at.u)")) @ contents["axes"]
    )
    mean = portable.apply(contents["layers"], z[None].astype(float))[0]
    box = image.shape[0] - 28
    for colour, values in ((BLUE, mean), (GREY, contents["data"][1]["image"])):
        rows = rows_of(image[:-20, 60:], colour)  # without the marks of the axes
        share = (np.array([values.max(), values.min()]) - low) / (high - low)
        expected = 8 + box * (1.06 - share) / 1.12
        if colour == BLUE:  # what lies beneath is partly covered
            np.testing.assert_allclose([rows.min(), rows.max()], expected, atol=5)
        assert expected[0] - 5 <= rows.min() <= rows.max() <= expected[1] + 5
    assert browser.eval("document.getElementById('image').hidden")  # drawn beneath
    assert "(blue), by the number of the feature" in browser.eval(
        "document.getElementById('what').textContent"
    )


@in_browser
def test_marks_of_an_axis_are_round_and_within_it(browser, opened):
    opened("table")
    for low, high, most in ((-40, 60, 5), (0, 3, 4), (0, 499, 4), (-1e-3, 2e-3, 5)):
        marks = browser.eval(f"ticks({low}, {high}, {most})")
        assert 2 <= len(marks) <= most + 1
        assert low - 1e-9 <= min(marks) <= max(marks) <= high + 1e-9
        steps = np.diff(marks)
        np.testing.assert_allclose(steps, steps[0])
        assert f"{steps[0]:.0e}"[0] in "125"


@in_browser
@pytest.mark.parametrize("name", ["image", "colour"])
def test_real_valued_images_are_on_their_scale(name, opened):
    contents, browser = opened(name)
    low, high = contents["limits"]
    channels, height, width = contents["shape"]
    shown = picture(browser, "#image")[..., :3].transpose(2, 0, 1)
    values = contents["data"][1]["image"].reshape(channels, height, width)
    expected = 255 * ((values - low) / (high - low)).clip(0, 1)
    assert np.abs(shown - expected).max() <= 0.51
    assert len(np.unique(shown)) > 15  # clipped to [0, 1] they would be black and white
    assert contents["note"] in browser.eval(
        "document.getElementById('what').textContent"
    )


@in_browser
@pytest.mark.parametrize("name", SHAPES)
def test_thumbnails_and_the_plane_show_something(name, opened):
    _, browser = opened(name)
    thumbnail = picture(browser, "#strip canvas")
    assert len(np.unique(thumbnail.reshape(-1, 4), axis=0)) > 2
    browser.eval("document.getElementById('tiles').click()")
    browser.settle()
    tiles = browser.eval(
        "Array.from(tiles.canvas.getContext('2d').getImageData(0, 0, 200, 200).data)"
    )
    assert len(set(tiles)) > 5
    button = browser.eval("document.getElementById('tiles').textContent")
    assert button == ("Curves" if len(SHAPES[name]) == 1 else "Images")
    assert browser.complaints() == []


@in_browser
@pytest.mark.parametrize("name", ["table", "spectrum"])
def test_curves_fit_a_phone(name, browser, opened):
    browser.resize(400, 800, dark=True)
    opened(name)
    assert browser.eval("document.documentElement.scrollWidth") <= 400
    box = browser.eval("$('decoded').getBoundingClientRect().toJSON()")
    assert box["width"] > 340
    assert 1.5 < box["width"] / box["height"] < 2
    browser.resize(1200, 800)
