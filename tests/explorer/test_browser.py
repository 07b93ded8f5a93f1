"""The page in headless Chromium: it decodes what Python does, and answers to hands."""

import math
import re

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from pairs import perturb, small
from torch import nn

from pyro_vae_zoo.explorer import decoder as portable
from pyro_vae_zoo.explorer.page import page_contents, page_of

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a browser: apt-get install chromium"
)

HOSTILE = "</script><img src=x onerror='hacked = 1'>"


def own():
    return nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 20))


PAIRS = {
    "three": ("iaf", {"latent_dim": 3, "network": "resnet"}),
    "two": ("planar", {"network": "gated_mlp"}),
    "grey": ("mean_field", {"latent_dim": 4, "likelihood": "discretized_logistic"}),
    "real": ("full_rank", {"likelihood": "gaussian", "activation": "elu"}),
    "colour": ("mean_field", {"event_shape": (3, 4, 5), "activation": "tanh"}),
    "vector": ("mean_field", {"event_shape": (7,), "latent_dim": 12}),
    "conv": ("planar", {"event_shape": (3, 6, 9), "network": "conv", "latent_dim": 3}),
    "table": ("iaf", {"latent_dim": 3, "decoder": own}),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.resize(1200, 800)
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """From a name to the page's contents and its file."""
    folder, made = tmp_path_factory.mktemp("pages"), {}

    def page(name):
        if name not in made:
            guide, options = PAIRS[name]
            with torch.random.fork_rng():
                torch.manual_seed(3)
                vae = small(guide, **{"event_shape": (4, 5), **options})
                perturb(vae)
                x = torch.rand(40, *vae.event_shape).round()
            labels, names = torch.arange(40) % 3, ["a", HOSTILE, "c"]
            sizes = {"num_data": 5, "num_samples": 30}
            found = page_contents(vae, x, HOSTILE, "test", labels, names, **sizes)
            path = folder / f"{name}.html"
            path.write_text(page_of(found | {"title": HOSTILE}), encoding="utf-8")
            made[name] = found, path
        return made[name]

    return page


@pytest.fixture
def three(browser, pages):
    """The page of three latents, opened at its start."""
    contents, path = pages("three")
    browser.open(path)
    yield contents
    assert browser.complaints() == []
    assert browser.requests() == [path.resolve().as_uri()]


def position(browser):
    return browser.eval("Array.from(at.u)")


@pytest.mark.parametrize("name", PAIRS)
def test_the_page_decodes_what_python_does(name, browser, pages):
    contents, path = pages(name)
    browser.open(path)
    z = 2 * torch.randn(20, len(contents["centre"])).double().numpy()
    found = browser.eval(f"{z.tolist()}.map(z => Array.from(decode(z)))")
    np.testing.assert_allclose(found, portable.apply(contents["layers"], z), atol=1e-9)
    assert browser.complaints() == []


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "vector"])
def test_the_image_is_that_of_the_address(name, browser, pages):
    contents, path = pages(name)
    u = np.linspace(0.5, -1, len(contents["centre"]))
    browser.open(path, f"#at={','.join(f'{v:.4f}' for v in u)}")
    np.testing.assert_allclose(position(browser), u, atol=1e-4)
    z = contents["centre"] + np.array(position(browser)) @ contents["axes"]
    mean = portable.apply(contents["layers"], z[None])[0]
    channels, height, width = contents["shape"]
    grey = mean.reshape(channels, height, width).clip(0, 1)
    pixels = browser.eval(
        "(c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data))"
        "(document.getElementById('decoded'))"
    )
    shown = np.reshape(pixels, (height, width, 4))[..., :3].transpose(2, 0, 1)
    assert np.abs(shown - 255 * grey).max() <= 0.51
    assert np.ptp(shown) > 5  # it is not blank


def test_half_precision_is_read_as_it_is_written(three, browser):
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = np.isfinite(values)
    found = np.array(browser.eval("Array.from({length: 65536}, (_, i) => half(i))"))
    np.testing.assert_array_equal(found[finite], values[finite].astype(float))


def test_a_thumbnail_picks_its_datum(three, browser):
    datum = three["data"][2]
    assert browser.eval("document.getElementById('posterior').hidden")
    browser.eval("document.querySelectorAll('#strip input')[2].click()")
    browser.settle()
    np.testing.assert_allclose(position(browser), datum["code"], rtol=1e-6)
    assert browser.eval("document.getElementById('name').textContent").startswith(
        f"x, datum {datum['index']}, class"
    )
    numbers = browser.eval("document.getElementById('numbers').textContent")
    assert f"ELBO −{-datum['elbo']:.2f} nats" in numbers
    assert f"log p(x) −{-datum['log_prob']:.2f} nats, 30 particles" in numbers
    browser.eval("document.getElementById('draw').click()")
    browser.settle()
    expected = datum["code"] + datum["draws"][0].astype(float)
    np.testing.assert_allclose(position(browser), expected, rtol=1e-6)
    assert "draw 1 of 30" in browser.eval(
        "document.getElementById('where').textContent"
    )
    browser.eval("document.getElementById('mean').click()")
    np.testing.assert_allclose(position(browser), datum["code"], rtol=1e-6)


def test_arrow_keys_walk_along_the_strip(three, browser):
    browser.eval("document.querySelector('#strip input').focus()")
    browser.key("ArrowRight")
    browser.key("ArrowRight")
    assert browser.eval("at.datum") == 2
    browser.key("Escape")
    assert browser.eval("at.datum") is None


def test_dragging_moves_in_the_plane_only(three, browser):
    code = three["data"][1]["code"]
    browser.eval("pick(1)")
    box = browser.eval("plane.getBoundingClientRect().toJSON()")
    half = browser.eval("at.view.half")
    x, y = box["left"] + 0.25 * box["width"], box["top"] + 0.6 * box["height"]
    browser.drag((x + 30, y - 40), (x, y))
    u = position(browser)
    np.testing.assert_allclose(u[:2], [-0.5 * half, -0.2 * half], atol=0.01 * half)
    assert u[2] == pytest.approx(code[2])  # stays where the datum's posterior is
    browser.mouse("mouseMoved", x + 50, y + 50)  # the button is up
    browser.settle()
    assert position(browser) == u
    browser.key("Escape")
    assert position(browser) == [*u[:2], 0]


def test_keys_move_and_zoom(three, browser):
    browser.eval("plane.focus()")
    half = browser.eval("at.view.half")
    browser.key("ArrowRight")
    browser.key("ArrowUp")
    np.testing.assert_allclose(position(browser), [half / 40, half / 40, 0])
    browser.eval("at.u.set([half_(), 0])".replace("half_()", str(half)))
    browser.key("ArrowRight")  # out of sight: the view follows
    assert browser.eval("at.view.x") == pytest.approx(half / 40)
    browser.eval("document.getElementById('in').click()")
    assert browser.eval("at.view.half") == pytest.approx(0.7 * half)
    browser.eval("document.getElementById('whole').click()")
    assert browser.eval("at.view.half") == pytest.approx(half)


def test_the_wheel_zooms_around_the_pointer(three, browser):
    box = browser.eval("plane.getBoundingClientRect().toJSON()")
    x, y = round(box["left"]) + 100, round(box["top"]) + 60
    point = f"pointAt({{clientX: {x}, clientY: {y}}})"
    before, half = browser.eval(point), browser.eval("at.view.half")
    wheel = {"type": "mouseWheel", "deltaX": 0, "deltaY": -200}
    browser.call("Input.dispatchMouseEvent", x=x, y=y, **wheel)
    browser.wait(f"at.view.half < {half}")
    np.testing.assert_allclose(browser.eval(point), before, atol=1e-6)


def test_two_fingers_zoom(three, browser):
    box = browser.eval("plane.getBoundingClientRect().toJSON()")
    x, y = box["left"] + 200, box["top"] + 200
    half = browser.eval("at.view.half")
    for kind, apart in (("touchStart", 50), ("touchMove", 100), ("touchEnd", None)):
        points = [{"x": x - apart, "y": y}, {"x": x + apart, "y": y}] if apart else []
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    browser.wait(f"Math.abs(at.view.half - {half / 2}) < {0.2 * half}")


def test_a_slider_leaves_the_plane(three, browser):
    browser.eval(
        "(s => { s.value = s.max; s.dispatchEvent(new Event('input')); })"
        "(document.querySelector('#axes input'))"
    )
    browser.settle()
    expected = 4 * max(three["sd"][2], 0.25)
    np.testing.assert_allclose(position(browser), [0, 0, expected], rtol=1e-5)
    assert browser.eval("document.querySelectorAll('#axes input').length") == 1


def test_the_posterior_fills_the_view(three, browser):
    browser.eval("pick(3)")
    browser.settle()
    browser.eval("document.getElementById('close').click()")
    view = browser.eval("at.view")
    datum = three["data"][3]
    np.testing.assert_allclose([view["x"], view["y"]], datum["code"][:2], rtol=1e-6)
    reach = np.abs(datum["draws"][:, :2]).max()
    assert view["half"] == pytest.approx(1.3 * reach, rel=1e-5)


def test_posterior_and_regions_are_drawn(browser, pages):
    contents, path = pages("two")
    browser.open(path, "#datum=0")
    assert len(contents["data"][0]["guide"]) == 3
    count = (
        "((r, g, b) => { const p = pen.getImageData(0, 0, plane.width, plane.height).data;"
        "let n = 0; for (let i = 0; i < p.length; i += 4) n += Math.abs(p[i] - r) +"
        "Math.abs(p[i + 1] - g) + Math.abs(p[i + 2] - b) < 30; return n; })(213, 94, 0)"
    )
    browser.eval("seePosterior()")
    browser.settle()
    lines = browser.eval(count)
    browser.eval("delete picked().guide; refresh()")
    browser.settle()
    assert lines > 3 * browser.eval(count)  # of what is left, the draws
    key = browser.eval("document.getElementById('key').textContent")
    assert "regions of 50, 90, 99 % mass" in key
    assert "by quadrature" in browser.eval("document.body.textContent")
    assert browser.complaints() == []


def test_the_decoded_plane_has_the_image_at_each_place(three, browser):
    browser.eval("document.getElementById('tiles').click()")
    browser.settle()
    side, gap = 15, 1
    channels, height, width = three["shape"]
    corner = browser.eval(
        f"Array.from(tiles.canvas.getContext('2d').getImageData(0, 0, {width}, {height})"
        ".data)"
    )
    half = browser.eval("at.view.half")
    u = np.array([-half * (1 - 1 / side), half * (1 - 1 / side), 0])
    mean = portable.apply(
        three["layers"], (three["centre"] + u @ three["axes"])[None].astype(float)
    )
    shown = np.reshape(corner, (height, width, 4))[..., 0]
    assert np.abs(shown - 255 * mean.reshape(height, width)).max() <= 0.51
    assert browser.eval("tiles.canvas.width") == side * (width + gap)


def test_the_address_holds_where_one_is(three, browser):
    browser.eval("pick(1); move([0.25, -0.5])")
    browser.wait("location.hash.includes('datum=1')")
    address = browser.eval("location.hash")
    assert re.match(r"#datum=1&at=0\.25,-0\.5,-?\d", address)


@pytest.mark.parametrize(
    "address", ["#datum=99", "#datum=-1&at=x,,1e999", "#&&=", "#at="]
)
def test_an_address_that_makes_no_sense_is_the_start(address, browser, pages):
    browser.open(pages("three")[1], address)
    assert browser.eval("at.datum") is None
    assert position(browser) == [0, 0, 0]
    assert browser.complaints() == []


def test_one_class_at_a_time(three, browser):
    button = "document.querySelectorAll('#classes button')[2]"
    for pressed in ("true", "false"):
        browser.eval(f"{button}.click()")
        assert browser.eval(f"{button}.getAttribute('aria-pressed')") == pressed
    assert browser.eval("at.only") is None


def test_names_are_texts_and_nothing_else(three, browser):
    title = "document.querySelector('h1').textContent"
    assert browser.eval(title) == browser.eval("document.title") == HOSTILE
    assert browser.eval("document.getElementById('about').textContent").startswith(
        HOSTILE
    )
    assert browser.eval("document.querySelectorAll('img').length") == 0
    assert browser.eval("typeof hacked") == "undefined"


def test_the_policy_forbids_other_scripts_and_the_network(browser, pages):
    browser.open(pages("three")[1])
    browser.eval(
        "(s => { s.textContent = 'hacked = 1'; document.body.append(s); })"
        "(document.createElement('script'))"
    )
    assert browser.eval("typeof hacked") == "undefined"
    for address in ("'http://localhost:1/'", "location.href"):
        blocked = f"fetch({address}).then(() => 'sent', error => error.name)"
        assert browser.eval(blocked) == "TypeError"
    assert any("Content Security Policy" in text for text in browser.complaints())


@pytest.mark.parametrize("name", ["three", "two", "vector"])
def test_it_fits_a_phone_in_the_dark(name, browser, pages):
    browser.resize(390, 800, dark=True)
    browser.open(pages(name)[1], "#datum=1")
    assert browser.eval("document.documentElement.scrollWidth") <= 390
    dark = browser.eval("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", dark))) < 150
    plane = browser.eval("plane.getBoundingClientRect().toJSON()")
    assert plane["width"] > 340
    assert math.isclose(plane["width"], plane["height"])
    browser.resize(1200, 800)
    browser.settle()
    light = browser.eval("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", light))) > 600


def test_everything_that_can_be_done_has_a_name(three, browser):
    browser.eval("pick(0)")
    browser.settle()
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    kinds = ("button", "radio", "slider", "application", "image")
    for node in tree:
        role = node.get("role", {}).get("value")
        if role in kinds and not node["ignored"]:
            assert node["name"]["value"], node
    roles = [node.get("role", {}).get("value") for node in tree]
    assert roles.count("radio") == 5
    assert roles.count("slider") == 1
