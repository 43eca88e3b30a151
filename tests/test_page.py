"""The page into a network: its arithmetic against the engine's, and its form, in Chromium."""

import base64
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alexnet
from minigrad import page
from minigrad.data import synthetic
from minigrad.engine import no_grad
from minigrad.models.cifar import CIFAR10
from minigrad.models.lenet import LENET5
from minigrad.models.records import LRN, Conv, Sigmoid, Tanh
from minigrad.network import Network, shrunken
from minigrad.page.numbers import keep_strongest, quantised, size
from minigrad.training import report
from minigrad.training.report import write_report

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None
in_browser = pytest.mark.skipif(
    not (CHROMIUM and sync_playwright) and "MINIGRAD_ALL_TESTS" not in os.environ,
    reason="needs Chromium, and playwright and axe-playwright-python from PyPI",
)

TINY = shrunken(alexnet.PRESETS["paper"]).with_each(LRN, alpha=1e-2)
HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "\"quoted\" & 'more' <b>",
    "\u202egnitnirp \x1b[31mred",
]


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """Opens a page file: every request and every error that comes of it is collected."""
    contexts = []

    def open_page(path, scheme="light"):
        context = browser.new_context(color_scheme=scheme, viewport={"width": 1200, "height": 900})
        contexts.append(context)
        tab = context.new_page()
        tab.requests, tab.errors = [], []
        tab.on("request", lambda r: tab.requests.append(r.url))
        tab.on("pageerror", lambda e: tab.errors.append(str(e)))
        tab.on("console", lambda m: tab.errors.append(m.text) if m.type == "error" else None)
        tab.goto(f"file://{path}")
        tab.wait_for_selector("html[data-ready]")
        return tab

    yield open_page
    for context in contexts:
        context.close()


def bare(model, x):
    """As much of a page's data as its arithmetic needs."""
    with no_grad():
        numbers = page.network_numbers(model, x)
    rest = {"code": {}, "curves": {"steps": [], "epochs": []}, "run": [], "absent": {}}
    rest |= {"picture": {"source": None, "words": "noise", "truth": None}}
    classes = [f"class {k}" for k in range(model.classes)]
    return {"title": "a network", "notice": "noise", "classes": classes} | rest | numbers


def network(preset, seed=0):
    """A network in test mode, a prepared picture of noise, and every stage's output."""
    model = Network(preset, 5, seed).eval()
    p = preset.preprocessing
    rng = np.random.default_rng(seed)
    for q in model.parameters():
        if q.ndim == 1:
            q.data[...] = 0.1 * rng.standard_normal(q.shape)
    x = rng.standard_normal((1, p.size, p.size, p.channels), dtype=np.float32)
    with no_grad():
        return model, x, {name: y.numpy()[0] for name, y in model.activations(x).items()}


ARITHMETIC = {
    "paper": TINY,
    "krizhevsky2012": shrunken(alexnet.PRESETS["krizhevsky2012"]),
    "zfnet": shrunken(alexnet.PRESETS["zfnet"]),
    "caffe": shrunken(alexnet.PRESETS["caffe"]),
    "lenet5": LENET5,
    "cifar10": CIFAR10,
    "sigmoid": TINY.changed(relu1=Sigmoid(), relu2=Tanh()),
}


def positions(y, rng, count):
    """(map, row, column): every border place of one map, and random ones of all."""
    H, W, C = y.shape if y.ndim == 3 else (1, 1, len(y))
    border = [(i, j) for i in range(H) for j in range(W) if i in (0, H - 1) or j in (0, W - 1)]
    m = int(rng.integers(C))
    chosen = [(m, i, j) for i, j in border]
    return chosen + [tuple(map(int, rng.integers((C, H, W)))) for _ in range(count)]


@in_browser
@pytest.mark.parametrize("name", ARITHMETIC)
def test_the_page_computes_what_the_engine_computes(opened, tmp_path, name):
    """At every border, and 100 random places a stage, of every stage; within the bound that the
    page prints, and the bound is small."""
    model, x, activations = network(ARITHMETIC[name])
    (tmp_path / "page.html").write_text(page.page(bare(model, x)))
    tab = opened(tmp_path / "page.html")
    rng = np.random.default_rng(1)
    for stage, y in activations.items():
        places = positions(y, rng, 100)
        found = tab.evaluate(
            "([stage, places]) => places.map(([m, i, j]) => check(stage, m, i, j))",
            [stage, places],
        )
        cube = y.reshape((1, 1, -1)) if y.ndim == 1 else y
        scale = float(np.abs(y).max())
        for (m, i, j), said in zip(places, found, strict=True):
            engine = float(cube[i, j, m])
            assert abs(said["sum"] - engine) <= said["bound"] + 1e-12, (stage, m, i, j)
            assert said["bound"] <= 3e-3 * scale + 1e-6, (stage, m, i, j)
            if "known" in said:
                assert abs(said["engine"] - engine) <= said["known"]
    shown = tab.evaluate("softmax().p")
    logits = list(activations.values())[-1].astype(np.float64)
    p = np.exp(logits - logits.max())
    np.testing.assert_allclose(shown, p / p.sum(), rtol=1e-9)
    assert tab.errors == []


@in_browser
@pytest.mark.parametrize("name", ["caffe", "krizhevsky2012", "paper"])
def test_the_lines_of_lrn_can_be_followed(opened, tmp_path, name):
    """s = k + alpha sum, as it is printed, with alpha divided where it is; and a bound below."""
    model, x, _ = network(ARITHMETIC[name])
    (tmp_path / "page.html").write_text(page.page(bare(model, x)))
    tab = opened(tmp_path / "page.html")
    for stage in [s for s in model.stages if "norm" in s]:
        tab.evaluate("hash => { location.hash = hash; }", f"#{stage}/1/2,2")
        tab.wait_for_function(
            "s => document.querySelector('h2').textContent.startsWith(s)", arg=stage
        )
        said = tab.locator("main .panel").first.inner_text().replace("\u2212", "-")
        k, alpha, total, s = map(
            float, re.search(r"sum = (\S+) \+ (\S+) \u00b7 (\S+) = (\S+)", said).groups()
        )
        assert s == pytest.approx(k + alpha * total, rel=1e-3), (stage, said)
        assert "The engine's value is within " in said


@in_browser
def test_a_wrong_number_is_seen(opened, tmp_path):
    """The bound is no excuse: one weight that is off by 6 % of the largest is outside it."""
    model, x, _ = network(TINY)
    data = bare(model, x)
    weights = data["stages"][0]["weights"]
    q = page.decoded(weights["numbers"]).copy()
    window = np.abs(x[0, 12:23, 12:23])  # what row 3, column 3 of conv1 sees
    at = np.unravel_index(window.argmax(), window.shape)
    q[0][at] += -2000 if q[0][at] > 0 else 2000  # of 32767, of map 0
    weights["numbers"] = page.encoded(q)
    (tmp_path / "page.html").write_text(page.page(data))
    said = opened(tmp_path / "page.html").evaluate("check('conv1', 0, 3, 3)")
    assert abs(said["sum"] - said["engine"]) > said["bound"] + said["known"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run folder of a training on a set whose classes have hostile names."""
    place = tmp_path_factory.mktemp("page")
    synthetic.draw_set(place / "set", train=4, val=3)
    for part in ("train", "val"):
        for folder in sorted((place / "set" / part).iterdir())[3:]:
            shutil.rmtree(folder)
    words = sorted(p.name for p in (place / "set" / "train").iterdir())
    lines = [f"{folder}\t{name}" for folder, name in zip(words, HOSTILE)]
    (place / "set" / "words.txt").write_text("\n".join(lines))
    before = os.environ.get("XDG_CACHE_HOME")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(alexnet.MODELS, "tiny", TINY)
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        command = f"train --data {place}/set --preset tiny --epochs 2 --batch-size 4 --workers 0"
        assert alexnet.main([*command.split(), "--output", str(place / "run")]) == 0
        yield place / "run"
    assert os.environ.get("XDG_CACHE_HOME") == before


def test_a_training_leaves_its_page(trained):
    text = (trained / "report.html").read_text()
    assert text.splitlines()[1].startswith("<!-- This page holds pictures that the run was given")
    data = json.loads(re.search(r'id="data">(.*)</script>\n<script>', text)[1])
    assert data["absent"] == {}
    assert len(text) <= page.BUDGET
    assert len(data["nine"]["relu5"]["maps"]) == 4
    assert {row["map"] for row in data["projections"]["relu1"]} <= set(range(6))
    again = write_report(trained, output=trained.parent / "again.html", workers=0)
    assert again.read_text() == text, "the same page again"


def test_the_command_makes_it_again(trained, tmp_path, capsys):
    """For the first held-out picture, for one that is named, for another set; by numbers."""
    picture = str(next((trained.parent / "set" / "train").rglob("*.JPEG")))
    own = ["report", str(trained), "--workers", "0", "-o", str(tmp_path / "made.html")]
    for options, words in (
        ([], "the first held-out picture"),
        (["--picture", picture], f"the picture {Path(picture).name}"),
        (["--data", str(trained.parent / "set")], "the first held-out picture"),
        (["--kind", "numbers"], "a drawn picture"),
    ):
        assert alexnet.main([*own, *options]) == 0
        assert f"written: {tmp_path / 'made.html'}" in capsys.readouterr().out
        assert words in (tmp_path / "made.html").read_text()
    assert alexnet.main([*own, "--picture", "none.jpg"]) == 2
    assert "none.jpg" in capsys.readouterr().err
    assert alexnet.main(["report", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


VIEWS = [
    "#overview", "#stage/conv1", "#stage/conv2", "#stage/relu6", "#conv1/3/0,0", "#norm1/2/4,5",
    "#pool2/1/1,1", "#fc8/2/0,0", "#projection", "#nine/relu3", "#occlusion", "#evolution",
    "#neighbours", "#ledger", "#run",
]  # fmt: skip


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_is_accessible_and_fetches_nothing(trained, opened, scheme):
    from axe_playwright_python.sync_playwright import Axe

    tab = opened(trained / "report.html", scheme)
    for view in VIEWS:
        tab.evaluate("hash => { location.hash = hash; }", view)
        tab.wait_for_timeout(30)
        found = Axe().run(tab).response["violations"]
        assert found == [], (view, [(v["id"], v["nodes"][0]["html"][:200]) for v in found])
        said = tab.locator("canvas, img, svg[role=img]").evaluate_all(
            "all => all.map(e => e.getAttribute('aria-label') || e.getAttribute('alt') || '')"
        )
        assert all(said), (view, "a picture that says nothing")
    assert [r for r in tab.requests if not r.startswith(("file:", "data:"))] == []
    assert tab.errors == []


@in_browser
def test_names_are_text(trained, opened):
    """Markup, quotes, a change of direction and a terminal's code, in the names of classes."""
    tab = opened(trained / "report.html")
    text = tab.locator("main").inner_text()
    assert HOSTILE[0] in text
    assert HOSTILE[1] in text
    assert "\\u202egnitnirp \\u001b[31mred" in text
    assert "\u202e" not in tab.content()
    assert tab.locator("img[src=x]").count() == 0
    assert tab.errors == []


@in_browser
def test_the_page_says_what_python_says(trained, opened):
    """Probabilities, the ledger and the nine strongest, as other code computes them."""
    from minigrad import look
    from minigrad.training.inside import Inside

    inside = Inside(str(trained), trained.parent, workers=0)
    with no_grad():
        x = inside.preparation.centre(inside.one[0][None])
        logits = inside.model(x).numpy()[0].astype(np.float64)
    p = np.exp(logits - logits.max())
    tab = opened(trained / "report.html")
    np.testing.assert_allclose(tab.evaluate("softmax().p"), p / p.sum(), rtol=1e-5)
    tab.evaluate("() => { location.hash = '#ledger'; }")
    total = tab.locator("tbody tr").last.inner_text()
    assert f"{sum(r.parameters for r in inside.rows.values()):,}" in total
    assert f"{sum(r.multiply_adds for r in inside.rows.values()):,}" in total
    found = look.find_strongest(inside.model, inside.loader, ["relu5"])["relu5"]
    shown = tab.evaluate("data.nine.relu5.maps")
    assert [m["map"] for m in shown] == found.order()[:4].tolist()
    for m in shown:
        assert m["value"] == float(found.values[0, m["map"]])
        assert m["active"] == found.active[m["map"]]


@in_browser
def test_the_keyboard_reaches_everything(trained, opened):
    tab = opened(trained / "report.html")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.keyboard.press("Enter")
    assert tab.evaluate("[document.activeElement.id, location.hash]") == ["main", ""]
    tab.reload()
    tab.wait_for_selector("html[data-ready]")
    for _ in range(40):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.textContent") == "conv2":
            break
    tab.keyboard.press("Enter")
    tab.wait_for_function("location.hash === '#stage/conv2'")
    tab.evaluate("() => { location.hash = '#conv2/1/2,2'; }")
    tab.wait_for_function("document.querySelector('h2').textContent.includes('map 1, row 2')")
    for key, title in [
        ("ArrowRight", "conv2, map 1, row 2, column 3"),
        ("ArrowDown", "conv2, map 1, row 3, column 3"),
        ("PageDown", "conv2, map 2, row 3, column 3"),
        ("ArrowLeft", "conv2, map 2, row 3, column 2"),
        ("ArrowUp", "conv2, map 2, row 2, column 2"),
        ("PageUp", "conv2, map 1, row 2, column 2"),
    ]:
        tab.keyboard.press(key)
        tab.wait_for_function("t => document.querySelector('h2').textContent === t", arg=title)
    tab.locator("#choose-row").fill("5")
    tab.keyboard.press("Enter")
    tab.wait_for_function("location.hash === '#conv2/1/5,2'")
    tab.locator("#choose-map").focus()
    for count in (2, 3):  # the control keeps the focus, and the keys their meaning
        tab.keyboard.press("ArrowUp")
        tab.wait_for_function(f"location.hash === '#conv2/{count}/5,2'")
        assert tab.evaluate("document.activeElement.id") == "choose-map"
    tab.evaluate("() => { location.hash = '#stage/conv4'; }")
    tab.wait_for_function("document.querySelector('h2').textContent.startsWith('conv4')")
    tab.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    tab.locator("main a[href^='#conv4/20']").click()
    tab.wait_for_function("location.hash.startsWith('#conv4/20')")
    assert tab.evaluate("window.scrollY") == 0
    for bad in ("#conv2/999/99,99", "#conv2/x/y", "#nowhere", "#stage/none", "#%F0%9F"):
        tab.evaluate("hash => { location.hash = hash; }", bad)
        tab.wait_for_timeout(30)
        assert tab.locator("h2").count() >= 1, bad
    assert tab.errors == []


def test_a_page_in_no_time_says_what_it_lacks(trained, tmp_path):
    path = write_report(trained, output=tmp_path / "quick.html", workers=0, seconds=-1)
    data = json.loads(re.search(r'id="data">(.*)</script>\n<script>', path.read_text())[1])
    assert data["nine"] is None
    assert data["absent"]["nine"] == (
        "Left out, for the sake of the training's time: alexnet.py report makes a whole page."
    )
    assert data["stages"]


def test_a_page_without_room_leaves_instruments_out_and_says_so(trained, tmp_path, monkeypatch):
    """First filters go, where there are any to spare; then the instruments, the least first."""
    whole = (trained / "report.html").read_text()
    monkeypatch.setattr(report, "BUDGET", len(whole) - 100_000 + report.SCRIPTS_SIZE)
    path = write_report(trained, output=tmp_path / "small.html", workers=0)
    data = json.loads(re.search(r'id="data">(.*)</script>\n<script>', path.read_text())[1])
    assert data["evolution"] is None
    assert re.fullmatch(r"Left out: the page is at most \d+\.\d+ MB\.", data["absent"]["evolution"])
    assert data["predictions"]
    assert len(path.read_text()) < len(whole)


def test_numbers_leave_every_picture_out(trained, tmp_path):
    path = write_report(trained, "numbers", output=tmp_path / "numbers.html", workers=0)
    text = path.read_text()
    assert text.splitlines()[1].startswith("<!-- This page holds numbers of the run and")
    assert text.count("data:image") == 1
    data = json.loads(re.search(r'id="data">(.*)</script>\n<script>', text)[1])
    assert data["picture"]["words"] == "a drawn picture, none of the run's"
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(data["picture"]["source"][22:]))))
    block = data["input"]
    x = page.decoded(block["numbers"]) * np.array(block["scales"])
    apart = x - shown.astype(np.float64) * np.linalg.lstsq(
        shown[..., :1].astype(float).ravel()[:, None] - shown[..., 0].mean(),
        (x[..., 0] - x[..., 0].mean()).ravel(), rcond=None,
    )[0]  # fmt: skip
    assert np.ptp(apart, axis=(0, 1)).max() < 0.02 * np.ptp(x), "no trace of the mean picture"
    assert str(trained.parent) not in text
    with pytest.raises(ValueError, match="a page of numbers shows no picture"):
        write_report(trained, "numbers", picture="a.png")
    for part in ("projections", "occlusion", "nine", "evolution", "neighbours", "predictions"):
        assert data[part] is None


def test_a_page_without_the_set(trained, tmp_path):
    """The pictures have gone: the page says so, and shows what it can."""
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    settings = json.loads((copy / "settings.json").read_text())
    assert settings
    place = trained.parent / "set"
    place.rename(trained.parent / "away")
    try:
        text = write_report(copy, workers=0).read_text()
    finally:
        (trained.parent / "away").rename(place)
    data = json.loads(re.search(r'id="data">(.*)</script>\n<script>', text)[1])
    assert "set" in data["absent"]["nine"]
    assert data["picture"]["words"].startswith("a drawn picture")
    assert data["projections"]


def test_a_page_that_cannot_be_written_ends_no_run(trained, monkeypatch, capsys):
    from minigrad.training import session

    def fail(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(session, "write_report", fail)
    command = f"train --data {trained.parent}/set --preset tiny --epochs 1 --batch-size 8"
    output = str(trained.parent / "second")
    assert alexnet.main([*command.split(), "--workers", "0", "--output", output]) == 0
    assert "could not be written (No space left on device)" in capsys.readouterr().out


def test_a_layer_that_has_no_room_keeps_its_strongest_filters():
    preset = TINY.changed(conv4=Conv(100, 3, padding=1))
    model, x, activations = network(preset)
    with no_grad():
        whole = page.network_numbers(model, x)
        cut = page.network_numbers(model, x, size(whole) - 1000)
    kept = next(s for s in cut["stages"] if s["name"] == "conv4")["kept"]
    assert [s["name"] for s in cut["stages"] if "kept" in s] == ["conv4"]
    strength = activations["conv4"].max(axis=(0, 1))
    assert kept == sorted(np.argsort(-strength)[:64].tolist())
    stage = next(s for s in whole["stages"] if s["name"] == "conv4")
    before = page.decoded(stage["weights"]["numbers"])
    keep_strongest(stage, activations["conv4"])
    np.testing.assert_array_equal(page.decoded(stage["weights"]["numbers"]), before[kept])


@in_browser
def test_a_filter_that_was_left_out_is_said(opened, tmp_path):
    model, x, activations = network(TINY.changed(conv4=Conv(100, 3, padding=1)))
    data = bare(model, x)
    stage = next(s for s in data["stages"] if s["name"] == "conv4")
    keep_strongest(stage, activations["conv4"])
    (tmp_path / "page.html").write_text(page.page(data))
    tab = opened(tmp_path / "page.html")
    out = next(m for m in range(100) if m not in stage["kept"])
    for m, word in ((out, "are not on this page"), (stage["kept"][3], "sum and bias")):
        tab.evaluate("hash => { location.hash = hash; }", f"#conv4/{m}/1,1")
        tab.wait_for_function("w => document.body.textContent.includes(w)", arg=word)
        said = tab.evaluate("m => check('conv4', m, 1, 1)", m)
        assert abs(said["sum"] - float(activations["conv4"][1, 1, m])) <= said["bound"]


def test_a_title_that_looks_like_a_place_in_the_template():
    model, x, _ = network(TINY)
    data = bare(model, x) | {"title": "@script@ </title><b>", "notice": "@data@ --> <b>"}
    text = page.page(data)
    assert text.count("<title>@script@ &lt;/title&gt;&lt;b&gt;</title>") == 1
    assert text.splitlines()[1] == "<!-- @data@ - -&gt; &lt;b&gt; -->"
    assert text.count('"use strict"') == 4


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_sixteen_bits_are_as_near_as_is_said(scale):
    a = (scale * np.random.default_rng(0).standard_normal((7, 5, 4))).astype(np.float32)
    a[..., 2] = 0
    block = quantised(a)
    back = page.decoded(block["numbers"]) * np.array(block["scales"])
    assert (np.abs(back - a) <= 0.50001 * np.array(block["scales"])).all()
    assert Path(page.__file__).name == "__init__.py"
