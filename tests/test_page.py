"""The page into a network: its arithmetic against the engine's, and its form, in Chromium."""

import base64
import hashlib
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
from minigrad.models.cifar import CIFAR10_26PCT
from minigrad.models.lenet import LENET5
from minigrad.models.records import LRN, Conv, Pool, Sigmoid, Tanh
from minigrad.network import Network, ledger, shrunken
from minigrad.page.excerpts import SOURCES
from minigrad.page.numbers import dense_numbers, keep_strongest, quantised, size
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
    "cifar10_26pct": CIFAR10_26PCT,
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
    assert "\\u202egnitnirp \\x1b[31mred" in text
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


def test_which_filters_are_left_out():
    """Those of the layer with the most weights first, and never the first layer's."""
    preset = TINY.changed(
        conv1=Conv(80, 11, stride=4), conv3=Conv(70, 3, padding=1), conv4=Conv(80, 3, padding=1)
    )
    model, x, _ = network(preset)
    with no_grad():
        whole = page.network_numbers(model, x)
        for budget, cut in ((size(whole), []), (size(whole) - 1000, ["conv4"]), (0, None)):
            found = page.network_numbers(model, x, budget)["stages"]
            expected = ["conv3", "conv4"] if cut is None else cut
            assert [s["name"] for s in found if "kept" in s] == expected
    before = next(s for s in whole["stages"] if s["name"] == "conv4")["weights"]["scales"]
    stage = next(s for s in found if s["name"] == "conv4")
    assert stage["weights"]["scales"] == [before[m] for m in stage["kept"]]
    assert len(stage["kept"]) == 64


def test_the_numbers_of_a_page_by_hand():
    """Each map's scale, a dense layer's products, and the rows of the ledger."""
    model, x, activations = network(TINY)
    model["fc8"].b = None
    with no_grad():
        activations |= {"fc8": model.activations(x)["fc8"].numpy()[0]}
        numbers = page.network_numbers(model, x)
    scales = np.abs(x[0]).max(axis=(0, 1)) / 32767
    np.testing.assert_allclose(numbers["input"]["scales"], scales, rtol=1e-6)
    by_name = {s["name"]: s for s in numbers["stages"]}
    conv = model["conv2"]
    for name, array in (("weights", conv.w.data), ("outputs", activations["conv2"])):
        largest = np.abs(array).max(axis=(0, 1, 2)[: array.ndim - 1])
        np.testing.assert_allclose(by_name["conv2"][name]["scales"], largest / 32767, rtol=1e-6)
    filters = page.decoded(by_name["conv2"]["weights"]["numbers"])
    assert filters.shape == (16, 5, 5, 3)
    np.testing.assert_array_equal(page.decoded(by_name["conv2"]["bias"]), conv.b.data)
    stage, w, inputs = by_name["fc8"], model["fc8"].w.data, activations["drop7"]
    products = w.T.astype(float) * inputs
    index, weight = page.decoded(stage["index"]), page.decoded(stage["weight"])
    assert index.shape == weight.shape == (5, 12)
    for u in range(5):
        order = np.argsort(-np.abs(products[u]), kind="stable")
        assert index[u].tolist() == order[:12].tolist()
        np.testing.assert_array_equal(weight[u], w[order[:12], u])
        rest = products[u][order[12:]].sum()
        np.testing.assert_allclose(page.decoded(stage["rest"])[u], rest, rtol=1e-9, atol=1e-12)
        total = np.abs(products[u]).sum()
        np.testing.assert_allclose(page.decoded(stage["size"])[u], total, rtol=1e-12)
    np.testing.assert_array_equal(page.decoded(stage["bias"]), np.zeros(5))
    np.testing.assert_array_equal(page.decoded(stage["values"]), activations["fc8"])
    for row in ledger(TINY, 5):
        stage = by_name[row.stage]
        assert (stage["inputs"], stage["shape"]) == (list(row.inputs), list(row.shape))
        assert stage["constants"] == vars(row.layer)
        keys = ("parameters", "multiplyAdds", "bytesOut", "bytesKept", "field", "jump", "start")
        assert [stage[key] for key in keys] == [
            row.parameters, row.multiply_adds, row.bytes_out, row.bytes_kept, row.field, row.jump,
            row.start,
        ]  # fmt: skip


@pytest.mark.parametrize(("inputs", "kind"), [(65_536, "uint16"), (65_537, "uint32")])
def test_the_index_of_a_long_input(inputs, kind):
    w, x = np.full((inputs, 1), 1e-3, np.float32), np.ones(inputs)
    x[-1] = 9
    found = dense_numbers(w, x)
    assert found["index"]["type"] == kind
    assert page.decoded(found["index"])[0, 0] == inputs - 1


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


def test_the_policy_and_what_is_escaped():
    """The two inline blocks by their checksums, pictures in the file, and nothing else."""
    model, x, _ = network(TINY)
    data = bare(model, x) | {"title": "a & b < c", "classes": HOSTILE}
    text = page.page(data)
    style = re.search(r"<style>(.*)</style>", text, re.DOTALL)[1]
    script = re.search(r"</script>\n<script>(.*)</script>", text, re.DOTALL)[1]

    def checksum(block):
        return "sha256-" + base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()

    policy = re.search(r'"Content-Security-Policy" content="(.*?)"', text)[1]
    assert policy.split("; ") == [
        "default-src 'none'", "img-src data:", f"script-src '{checksum(script)}'",
        f"style-src '{checksum(style)}'", "base-uri 'none'", "form-action 'none'",
    ]  # fmt: skip
    assert "<title>a &amp; b &lt; c</title>" in text
    (block,) = re.findall(r'id="data">(.*)</script>\n<script>', text)
    assert "<" not in block
    assert json.loads(block)["classes"] == HOSTILE
    with pytest.raises(ValueError, match="JSON compliant"):
        page.page(data | {"number": float("nan")})


def test_pictures_in_the_file():
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)

    def read(uri, kind):
        start = f"data:image/{kind};base64,"
        assert uri.startswith(start)
        return Image.open(io.BytesIO(base64.b64decode(uri[len(start) :])))

    png = read(page.as_png(picture), "png")
    assert png.format == "PNG"
    np.testing.assert_array_equal(np.asarray(png), picture)
    assert read(page.as_jpeg(picture), "jpeg").format == "JPEG"
    assert (
        len(page.as_jpeg(picture, 10)) < len(page.as_jpeg(picture)) < len(page.as_jpeg(picture, 99))
    )


@pytest.mark.parametrize("kind", SOURCES)
def test_excerpts_are_the_lines_of_their_files(kind):
    """By number; the functions that compute the output, and the kernel with what it calls."""
    root = Path(page.__file__).parents[2]
    found = page.excerpt(kind)
    file, functions, kernels = SOURCES[kind]
    assert len(found["parts"]) == len(functions) + len(kernels)
    assert kernels or not (root / "kernels" / f"{file}.cu").exists()
    for part, name in zip(found["parts"], (*functions, *kernels)):
        path, _, shown = part["file"].partition(": ")
        assert shown == name.split(":")[-1]
        assert Path(path).stem == (name.split(":")[0] if ":" in name else Path(path).stem)
        lines = (root / path).read_text().splitlines()
        assert [lines[n - 1].rstrip() for n, _ in part["lines"]] == [t for _, t in part["lines"]]
        text = "\n".join(line for _, line in part["lines"])
        if path.endswith(".cu"):
            assert re.search(rf"void\s+{name}\(", text)
            own = set(re.findall(r"^__device__ .*?(\w+)\(", "\n".join(lines), re.MULTILINE))
            called = {f for f in own if re.search(rf"\b{f}[<(]", text)}
            assert all(re.search(rf"^__device__ .*\b{f}\(", text, re.MULTILINE) for f in called)
        elif ":" not in name:
            assert Path(path).stem == file
            assert text.startswith("    def ")
    first, *formulas = found["formula"].split("\n\n")
    assert first
    assert len(formulas) == 1
    assert all(line.startswith("    ") for text in formulas for line in text.splitlines())


def test_excerpts_of_lrn_have_what_it_calls():
    text = "\n".join(line for _, line in page.excerpt("LRN")["parts"][1]["lines"])
    assert "clear_ends(real *row" in text
    assert "Tanh" not in page.excerpt("Sigmoid")["parts"][0]["file"]
    assert "tanh.py: Tanh.forward" in page.excerpt("Tanh")["parts"][0]["file"]
    assert page.kind_of(Pool(2, 2)) == "Pool"
    assert page.kind_of(Pool(2, 2, mean=True)) == "AvgPool"
    assert page.kind_of(Conv(2, 2)) == "Conv"


@in_browser
def test_where_a_dense_product_comes_from(opened, tmp_path):
    """Row, column and map of each input, of a layer that reads maps."""
    model, x, activations = network(LENET5)
    (tmp_path / "page.html").write_text(page.page(bare(model, x)))
    tab = opened(tmp_path / "page.html")
    found = tab.evaluate("weighted(byName.get('fc3'), 2).products")
    assert len(found) == 12
    maps, w = activations["pool2"], model["fc3"].w.data
    assert maps.shape == (5, 5, 16)
    for t in found:
        value = float(maps[t["h"], t["w"], t["c"]])
        assert t["x"] == pytest.approx(value, abs=1e-3 * float(np.abs(maps).max()))
        assert t["weight"] == float(w[(t["h"] * 5 + t["w"]) * 16 + t["c"], 2])


@in_browser
def test_the_views_show_the_numbers(opened, tmp_path):
    """Probabilities, fields, products and sums in the tables, as Python has them."""
    model, x, activations = network(TINY)
    (tmp_path / "page.html").write_text(page.page(bare(model, x)))
    tab = opened(tmp_path / "page.html")

    def said(view):
        tab.evaluate("hash => { location.hash = hash; }", view)
        tab.wait_for_function("hash => location.hash === hash", arg=view)
        tab.evaluate("() => { render(); }")
        return tab.locator("main").inner_text()

    def rows(number=0):
        cells = "all => all.map(r => [...r.cells].map(c => c.innerText))"
        return tab.locator("main table").nth(number).locator("tbody tr").evaluate_all(cells)

    def number(text):
        return float(text.replace("\u2212", "-").replace(",", ""))

    logits = activations["fc8"].astype(float)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    said("#overview")
    order = np.argsort(-p, kind="stable")
    assert [row[:2] for row in rows()] == [[f"class {k}", f"{100 * p[k]:.1f}%"] for k in order]
    assert 0 < max(tab.evaluate("softmax().bound")) < 1e-4

    row = next(r for r in ledger(TINY, 5) if r.stage == "conv2")
    top, bottom = row.start + 2 * row.jump, row.start + 2 * row.jump + row.field
    assert (top, bottom) == (0, 51)
    corner = row.start + 7 * row.jump
    assert corner < 67 < corner + row.field
    text = said("#conv2/3/2,7" if row.shape[0] > 7 else "#conv2/3/2,6")
    column = min(7, row.shape[1] - 1)
    left = row.start + column * row.jump
    words = f"rows 0 to 50, columns {left} to {min(67, left + row.field) - 1}"
    assert f"what this output sees: {words}" in text
    table = rows()
    sizes = [abs(number(cells[3])) for cells in table[:24]]
    assert sizes == sorted(sizes, reverse=True)
    assert table[24][0].endswith(" more")
    parts = [number(cells[3]) for cells in table]
    assert parts[-1] == pytest.approx(sum(parts[:-1]), rel=1e-2, abs=1e-3)
    assert parts[-1] == pytest.approx(float(activations["conv2"][2, column, 3]), rel=1e-2)

    said("#fc8/1/0,0")
    parts = [number(cells[3]) for cells in rows()]
    assert parts[-1] == pytest.approx(sum(parts[:-1]), rel=1e-2, abs=1e-3)
    assert parts[-1] == pytest.approx(logits[1], rel=1e-2, abs=1e-3)

    text = said("#conv1/0/5,8")
    assert "pool1, row 2, column 4" in text
    assert "norm1, row 5, column 8" in text
    said("#ledger")
    total = rows()[-1]
    kinds = ("parameters", "multiply_adds", "bytes_out", "bytes_kept")
    assert [total[2 + 2 * n] for n in range(4)] == [
        f"{sum(getattr(r, kind) for r in ledger(TINY, 5)):,}" for kind in kinds
    ]
    said("#conv1/999/99,99")
    last = model["conv1"].w.shape[3] - 1, *(side - 1 for side in activations["conv1"].shape[:2])
    title = "conv1, map {}, row {}, column {}"
    assert tab.locator("h2").inner_text() == title.format(*last)
    said("#conv1/1/2,3")
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("location.hash === '#conv1/1/2,4'")
    tab.keyboard.press("ArrowDown")
    tab.wait_for_function("location.hash === '#conv1/1/3,4'")

    assert tab.evaluate("[-2, 0, 1].map((v) => colour(v, 1))") == [
        [33, 102, 172], [255, 255, 255], [178, 24, 43]
    ]  # fmt: skip
    assert tab.evaluate("peak({H: 1, W: 4, C: 1, y: [1, 3, 3, 2]}, 0)") == {
        "value": 3, "i": 0, "j": 1
    }  # fmt: skip
    assert tab.errors == []
