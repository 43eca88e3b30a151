"""The instruments of minigrad/look/ on small networks, against brute force and planted models."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import alexnet
from minigrad import data, look, nn
from minigrad import functions as F
from minigrad.engine import Tensor, no_grad
from minigrad.look import filters, sheet
from minigrad.look import pictures as pictures_by_matplotlib
from minigrad.network import Network, Row, feature_stage, last_hidden_stage, ledger, shrunken
from minigrad.training import health

SIDE = 67


@pytest.fixture(scope="module")
def model():
    """The paper's layers in small; map 3 of relu5 and unit 5 of relu7 are never active."""
    model = Network(shrunken(alexnet.PAPER), 10, seed=2).eval()
    for name, number in (("conv5", 3), ("fc7", 5)):
        model[name].w.data[..., number] = 0
        model[name].b.data[number] = -1
    return model


@pytest.fixture(scope="module")
def loader(pictures):
    """A function that makes the held-out set's loader, with one picture twice."""
    images = pictures[1].images
    items, labels = list(images.items), list(images.labels)
    items[13], labels[13] = items[4], labels[4]
    again = data.ImageSet(**{**vars(images), "items": items, "labels": np.array(labels)})
    shape = (SIDE + 3, SIDE + 3, 3)
    mean = np.full((SIDE, SIDE, 3), 100, np.float32)
    return lambda batch_size: data.Loader(
        data.Pictures(again, shape=shape),
        data.Preparation(SIDE, mean, 0.02), batch_size, False, workers=0,
    )  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_nine_strongest_are_those_of_brute_force(model, loader, batch_size):
    every = loader(64)
    x, _, numbers = every.prepare(np.arange(20))
    with no_grad():
        activations = {name: y.data for name, y in model.activations(x).items()}
    stages = ["pool1", "relu5", "relu7"]
    found = look.find_strongest(model, loader(batch_size), stages)
    assert list(found) == stages
    for stage, strongest in found.items():
        y = activations[stage]
        y = y if y.ndim == 4 else y[:, None, None]
        assert strongest.seen == 20
        assert (np.diff(strongest.values[0][strongest.order()]) <= 0).all()
        for m in range(y.shape[3]):
            peaks = [(float(y[i, ..., m].max()), i) for i in range(20)]
            best = sorted((p for p in peaks if p[0] > 0), key=lambda p: (-p[0], p[1]))
            assert strongest.active[m] == len(best)
            best = best[:9]
            n = len(best)
            assert strongest.pictures[:n, m].tolist() == [i for _, i in best]
            np.testing.assert_allclose(strongest.values[:n, m], [v for v, _ in best], 1e-5, 1e-6)
            assert (strongest.pictures[n:, m] == -1).all()
            assert (strongest.values[n:, m] == 0).all()
            for rank, (_, i) in enumerate(best):
                row, column = strongest.at[rank, m]
                np.testing.assert_allclose(
                    y[i, row, column, m], strongest.values[rank, m], 1e-5, 1e-6
                )
    assert found["relu5"].active[3] == 0
    assert 3 not in found["relu5"].order()
    twins = found["pool1"].pictures
    assert all(13 not in column or 4 in column for column in twins.T.tolist())


def test_projections_of_the_strongest(model, loader):
    """Each is the projection of its own picture, map and place."""
    found = look.find_strongest(model, loader(6), ["relu5"])["relu5"]
    maps = found.order()[:3]
    pixels = look.project_strongest(model, loader(6), "relu5", found, [3, *maps])
    assert set(pixels) == {(m, r) for m in maps for r in range(9) if found.pictures[r, m] >= 0}
    assert any((found.at[r, m] != found.at[0, m]).any() for m, r in pixels)
    for m, r in pixels:
        x = loader(1).prepare(found.pictures[r : r + 1, m])[0]
        alone = look.project(model, x, "relu5", maps=int(m), at=found.at[r, m])
        np.testing.assert_allclose(pixels[m, r], alone.pixels[0], rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="unknown stage conv9: choose from conv1, relu1"):
        look.find_strongest(model, loader(6), ["relu5", "conv9"])


def test_as_many_as_are_wanted(model, loader):
    few = look.find_strongest(model, loader(7), ["relu5"], k=2)["relu5"]
    nine = look.find_strongest(model, loader(7), ["relu5"])["relu5"]
    assert (few.values.shape, nine.values.shape) == ((2, 16), (9, 16))
    for one, other in zip(vars(few).values(), vars(nine).values()):
        assert np.array_equal(one, other[:2] if np.ndim(one) > 1 else other)


def test_rules_reach_every_projection(model, loader):
    rules = look.METHODS["gradient"]
    found = look.find_strongest(model, loader(8), ["relu5"], k=1)["relu5"]
    m = int(found.order()[0])
    x = loader(1).prepare(found.pictures[:, m])[0]
    expected = look.project(model, x, "relu5", m, found.at[0, m], **rules).pixels[0]
    assert not np.array_equal(expected, look.project(model, x, "relu5", m).pixels[0])
    pixels = look.project_strongest(model, loader(8), "relu5", found, [m], **rules)
    np.testing.assert_allclose(pixels[m, 0], expected, rtol=1e-4, atol=1e-6)
    own = [(1.0, model.state_dict())]
    (moment,) = look.follow_features(model, own, loader(8), "relu5", [m], **rules)
    assert np.array_equal(moment.pixels[m], pixels[m, 0])


def test_every_instrument_looks_in_test_mode(model, loader):
    """Without dropout, whatever mode the model is in; and this mode comes back."""
    batches = loader(8)
    raw = batches.pictures.read(2)
    crop_ = batches.preparation.crop_of(raw)

    def instruments():
        yield look.find_strongest(model, batches, ["fc8"], k=1)["fc8"].values
        yield look.find_neighbours(model, batches, [0, 1], "relu7", k=2).distances
        yield look.occlude(model, crop_, batches.preparation, "relu7", size=60).probability
        yield look.measure_invariance(
            model, raw[None], [1], batches.preparation, ["relu7"], "scale", [1.5]
        ).distances["relu7"]
        yield look.project(model, batches.prepare(np.arange(2))[0], "fc8").pixels

    expected = list(instruments())
    model.train()
    try:
        for found, right in zip(instruments(), expected, strict=True):
            assert model.training
            np.testing.assert_array_equal(found, right)
    finally:
        model.eval()


def test_a_patch_is_what_a_unit_sees():
    """Pixels hold their own place, so a patch says where it was cut; 255 marks the outside."""
    rows = {row.stage: row for row in ledger(alexnet.PAPER)}
    v, u = np.mgrid[:227, :227].astype(np.uint8)
    picture = np.stack([v, u, 0 * v], axis=2)
    inner = look.patch(picture, rows["conv1"], (3, 10), fill=255)
    assert inner.shape == (11, 11, 3)
    assert inner[0, 0].tolist() == [12, 40, 0]
    assert inner[-1, -1].tolist() == [22, 50, 0]
    conv5 = look.patch(picture, rows["conv5"], (0, 6), fill=255)
    assert conv5.shape == (163, 163, 3)  # from -64 to 98, and from 32 to 194
    assert (conv5[:64] == 255).all()
    assert conv5[64, 0].tolist() == [0, 32, 0]
    assert conv5[-1, -1].tolist() == [98, 194, 0]
    corner = look.patch(picture, rows["conv5"], (12, 12), fill=255)
    assert corner[0, 0].tolist() == [128, 128, 0]
    assert corner[98, 98].tolist() == [226, 226, 0]
    assert (corner[227 - 128 :] == 255).all()
    assert (corner[:, 227 - 128 :] == 255).all()
    assert look.patch(picture, rows["fc6"], (0, 0)) is picture


def crop(loader, number):
    return loader.preparation.crop_of(loader.pictures.read(number))


def captured(monkeypatch, module):
    """The arguments of every sheet that a file of look/ lays out from here on."""
    own, seen = sheet.sheet, []

    def keep(tiles, columns=0, captions=(), title="", limit=None):
        said = {"captions": list(captions), "title": title, "limit": limit}
        seen.append({"tiles": tiles, "columns": columns} | said)
        return own(tiles, columns, captions, title, limit)

    monkeypatch.setattr(sys.modules[f"minigrad.look.{module}"], "sheet", keep)
    return seen


def figures(monkeypatch, module):
    """The figures that a file of look/ draws from here on."""
    own, seen = pictures_by_matplotlib.new_figure, []

    def keep(size):
        seen.append(own(size))
        return seen[-1]

    monkeypatch.setattr(sys.modules[f"minigrad.look.{module}"], "new_figure", keep)
    return seen


def pixels_of(path):
    return np.asarray(Image.open(path))


def test_colours_of_signed_numbers():
    tile = sheet.signed(np.array([[0.0, 2, -2, 1], [4, -9, np.nan, 0]]), 2)
    assert tile[0, 0].tolist() == [255, 255, 255]
    assert tile[0, 1].tolist() == tile[1, 0].tolist() == [178, 24, 43]
    assert tile[0, 2].tolist() == tile[1, 1].tolist() == [33, 102, 172]
    assert tile[1, 2].tolist() == [0, 0, 0]
    assert 178 < tile[0, 3, 0] < 255
    assert sheet.coloured(np.zeros((1, 1, 3)))[0, 0].tolist() == [128] * 3


def test_where_a_sheet_has_its_tiles():
    """Tiles in rows, with gaps of 3 and lines of 14 pixels; what each helper makes of a tile."""
    tiles = [np.full((4, 5, 3), 10 * n, np.uint8) for n in range(5)]
    page = sheet.sheet(tiles, columns=2, captions=["a"] * 5, title="title")
    step_y, step_x = 4 + 3 + 14, max(5, page_width("a")) + 3
    for n in range(5):
        y, x = 3 + 14 + 14 + n // 2 * step_y, 3 + n % 2 * step_x
        assert (page[y : y + 4, x : x + 5] == 10 * n).all(), n
    assert sheet.sheet(tiles[:4], columns=4).shape == (3 + 4 + 3, 3 + 4 * 8, 3)
    assert sheet.sheet(tiles[:1], columns=4).shape == (3 + 4 + 3, 3 + 8, 3)
    pair = sheet.beside([tiles[1], np.full((2, 5, 3), 99, np.uint8)])
    assert pair.shape == (4, 2 * (5 + 12), 3)
    assert (pair[:2, 17:22] == 99).all()
    assert (pair[2:, 17:] == 255).all()
    assert (pair[:, 5:17] == 255).all()
    wide = np.arange(6).reshape(2, 3, 1)
    assert sheet.enlarged(wide, 12).shape == (8, 12, 1)
    assert sheet.enlarged(wide, 12)[4, 11, 0] == 5
    assert sheet.enlarged(wide, 2).shape == (2, 3, 1)
    checks = np.indices((8, 8)).sum(axis=0)[..., None] % 2 * np.float32(200)
    small = sheet.shrunk(checks, 2)
    assert small.shape == (2, 2, 1)
    np.testing.assert_allclose(small, 100, atol=1)
    assert sheet.shrunk(checks, 8) is checks
    grey = np.array([[[7]]], np.uint8)
    assert sheet.photograph(grey).tolist() == [[[7, 7, 7]]]
    numbers = np.array([[[-2.0], [1.0]]])
    assert np.array_equal(sheet.coloured(numbers, 2), sheet.signed(numbers[..., 0], 2))
    assert sheet.largest(np.array([np.inf, -3, np.nan, 2])) == 3
    assert sheet.largest(np.zeros(0)) == 0
    many = np.concatenate([np.zeros(500), np.arange(1, 102), -np.arange(1, 102)])
    assert sheet.contrast(many) == pytest.approx(100)
    assert sheet.contrast(np.zeros(3)) == 0


def page_width(text):
    return int(np.ceil(sheet.font().getlength(text)))


def test_filters_are_drawn_where_they_are(model, tmp_path):
    """conv1 as colour tiles in the two groups of conv2; conv2's rows are filters, columns maps."""
    with pytest.raises(ValueError, match="'relu1' has no weights: choose from conv1, conv2, conv3"):
        look.draw_filters(model, "relu1", tmp_path / "x.png")
    groups = [filters.columns_of(model, stage) for stage in ("conv1", "conv2", "conv3", "fc6")]
    assert groups == [2, 2, 2, 1]
    page = pixels_of(look.draw_filters(model, "conv1", tmp_path / "conv1.png"))
    w = model["conv1"].w.data
    for o in range(w.shape[3]):
        tile = sheet.enlarged(sheet.coloured(w[..., o]), 44)
        windows = np.lib.stride_tricks.sliding_window_view(page, tile.shape)[..., 0, :, :, :]
        found = np.argwhere((windows[:, :, ::44, ::44] == tile[::44, ::44]).all(axis=(2, 3, 4)))
        assert any(np.array_equal(page[y : y + 44, x : x + 44], tile) for y, x in found), o
    page = pixels_of(look.draw_filters(model, "conv2", tmp_path / "conv2.png"))
    w = model["conv2"].w.data  # (5, 5, 3, 16)
    colours = sheet.signed(w.transpose(3, 0, 2, 1), np.abs(w).max())  # as for one filter's maps
    first = 3 + 14  # a gap and the title
    for o, c in ((0, 0), (5, 2), (15, 1)):
        tile = page[first + 6 * o : first + 6 * o + 5, 3 + 6 * c : 3 + 6 * c + 5]
        assert np.array_equal(tile, colours[o, :, c])
    page = pixels_of(look.draw_filters(model, "fc8", tmp_path / "fc8.png"))
    w = model["fc8"].w.data.T
    assert np.array_equal(page[first : first + 250 : 25, 3:67], sheet.signed(w, np.abs(w).max()))


def test_a_dense_layer_larger_than_its_picture(monkeypatch):
    w = np.zeros((3000, 2))
    w[3:6, 1] = 2, 0, 2  # one pixel: the root mean square of three inputs
    sheets = captured(monkeypatch, "filters")
    tile = filters.dense_sheet(w, "fc")[17:]
    assert tile[255, 3 + 1].tolist() == tile[128, 3 + 1].tolist() == [178, 24, 43]
    assert tile[:128, 3:1003].min() == tile[128:256, 3 + 2 : 1003].min() == 255
    assert sheets[0]["limit"] == pytest.approx(np.sqrt(8 / 3))


def test_dead_maps_are_those_of_health(model, loader, tmp_path, monkeypatch):
    x = loader(20).prepare(np.arange(20))[0]
    shares = {
        row["layer"]: row["dead"]
        for row in health.readings(model, {n: p.data for n, p in model.named_parameters()}, x, 0)
        if "dead" in row
    }
    with no_grad():
        activations = {name: y.data for name, y in model.activations(x).items()}
    for name in ("relu1", "relu5", "relu7"):
        dead = look.dead_maps(activations[name])
        assert f"{dead.mean():.4f}" == shares[name]
    assert look.dead_maps(activations["relu5"])[3]
    strongest = look.find_strongest(model, loader(20), ["relu5"])["relu5"]
    assert np.array_equal(look.dead_maps(activations["relu5"]), strongest.active == 0)
    assert not look.dead_maps(np.array([[0.0, -1], [1e-9, -1]]))[0]
    y = activations["conv2"][0]
    y[..., 4] = 0
    sheets = captured(monkeypatch, "maps")
    for scale, limit in (("map", None), ("layer", np.abs(y).max())):
        look.draw_maps(y, "conv2", tmp_path / "maps.png", scale)
        expected = sheet.enlarged(sheet.signed(y[..., 7], limit), 56)
        assert np.array_equal(sheets[-1]["tiles"][7], expected)
        assert sheets[-1]["captions"][7] == f"7: {np.abs(y[..., 7]).max():.3g}"
        assert sheets[-1]["limit"] == limit
        assert sheets[-1]["title"] == "conv2: 16 maps, 1 of them dead"
    for scale in ("map", "layer"):
        page = pixels_of(look.draw_maps(y, "conv2", tmp_path / "maps.png", scale))
        tile = sheet.hatched(*sheet.enlarged(y[..., :3], 56).shape[:2])
        windows = np.lib.stride_tricks.sliding_window_view(page[..., 0], tile.shape[:2])
        assert (windows == tile[..., 0]).all(axis=(2, 3)).sum() == 1
    page = pixels_of(look.draw_maps(activations["relu7"][0], "relu7", tmp_path / "units.png"))
    assert np.array_equal(
        page[17 + 4, 3 + 4 : 3 + 512 : 8], sheet.signed(activations["relu7"][0][None])[0]
    )
    with pytest.raises(ValueError, match="scale must be map or layer, not 'log'"):
        look.draw_maps(y, "conv2", tmp_path / "maps.png", "log")


def test_the_spectrum_of_waves():
    """Filters that are one wave have their energy in its band; white noise has 1 everywhere."""
    v, u = np.mgrid[:32, :32]
    slow, fast = np.cos(2 * np.pi * 2 / 32 * u), np.cos(2 * np.pi * 10 / 32 * v)
    w = np.stack([slow, fast, 0.01 * slow], axis=2)[:, :, None]
    found = look.spectrum(w[..., :1], stride=4)
    assert found.frequencies[found.density.argmax()] == pytest.approx(2 / 32, abs=1 / 64)
    assert found.density[found.frequencies > 0.2].max() < 0.01 * found.density.max()
    found = look.spectrum(w, stride=4)
    assert found.aliased.tolist() == [False, True, False]  # 1/8 is the highest that stride 4 tells
    assert found.dead.tolist() == [False, False, True]
    assert not look.spectrum(w, stride=1).aliased.any()
    noise = np.random.default_rng(0).normal(size=(11, 11, 3, 500))
    np.testing.assert_allclose(look.spectrum(noise).density, 1, atol=0.1)


def test_the_limits_of_dead_and_aliased():
    """Dead below a tenth of the largest; aliased above half of the energy."""
    v, u = np.mgrid[:64, :64]
    slow, fast = np.cos(2 * np.pi * 4 / 64 * u), np.cos(2 * np.pi * 12 / 64 * v)
    w = np.stack([slow, 0.2 * slow, 0.12 * slow, slow + 0.8 * fast, slow + 1.2 * fast], axis=2)
    found = look.spectrum(w[:, :, None], stride=4)
    assert found.dead.tolist() == [False, False, True, False, False]
    assert found.aliased.tolist() == [False, False, False, False, True]
    np.testing.assert_allclose(found.frequencies, (np.arange(16) + 0.5) / 32)


def test_the_spectrum_is_drawn(tmp_path, monkeypatch):
    w = np.random.default_rng(0).normal(size=(5, 5, 3, 8))
    w[..., 6:] *= 1e-3
    drawn = figures(monkeypatch, "filters")
    path = look.draw_spectrum({"a": (w, 4), "b": (w, 1)}, tmp_path / "spectrum.png")
    assert pixels_of(path).std() > 5
    (axes,) = drawn[0].axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    aliased = look.spectrum(w, 4).aliased.sum()
    assert aliased > 2
    assert labels == [
        f"a, stride 4: 2 dead, {aliased} aliased of 8 filters (of white noise: all)",
        "b, stride 1: 2 dead, 0 aliased of 8 filters",
    ]
    a, dotted, b, level = axes.get_lines()
    for line in (a, b):
        np.testing.assert_array_equal(line.get_ydata(), look.spectrum(w).density)
    assert (dotted.get_xdata()[0], level.get_ydata()[0]) == (1 / 8, 1)


class OnePixel(nn.Module):
    """Logits (red of pixel (9, 13), 0): whether a square covers it is all that counts."""

    def forward(self, x):
        red = x.data[:, 9, 13, 0]
        return Tensor(np.stack([red, 0 * red], axis=1))


@pytest.mark.parametrize(("size", "stride"), [(5, 2), (4, 4), (20, 1), (1, 1)])
def test_the_occlusion_map_of_a_planted_pixel(size, stride):
    picture = np.full((20, 20, 3), 100, np.uint8)
    picture[9, 13, 0] = 103
    preparation = data.Preparation(20, np.full((20, 20, 3), 100, np.float32), 1.0)
    model = nn.Sequential(pixel=OnePixel())
    found = look.occlude(
        model, picture, preparation, "pixel", size=size, stride=stride, grey=98, batch_size=7
    )
    covers = np.zeros((20, 20), int)
    expected = np.zeros_like(found.probability)
    for (r, c), _ in np.ndenumerate(expected):
        v, u = found.starts[r], found.starts[c]
        covers[v : v + size, u : u + size] += 1
        hidden = v <= 9 < v + size and u <= 13 < u + size
        expected[r, c] = 1 / (1 + np.exp(2.0 if hidden else -3.0))
        assert found.strength[r, c] == (-2 if hidden else 3)
        assert found.likeliest[r, c] == hidden
    assert covers.min() >= 1, "together the squares cover every pixel"
    np.testing.assert_allclose(found.probability, expected, rtol=1e-6)
    assert (found.label, found.map) == (0, 0)
    other = look.occlude(model, picture, preparation, "pixel", 1, size, stride, grey=98)
    np.testing.assert_allclose(other.probability, 1 - expected, rtol=1e-5)


def test_the_squares_own_size_and_stride():
    """A seventh of the side, moved by a quarter of this; the class and the map that are strongest
    when nothing is covered."""
    picture = np.full((56, 56, 3), 100, np.uint8)
    preparation = data.Preparation(56, np.full((56, 56, 3), 100, np.float32), 1.0)
    found = look.occlude(nn.Sequential(pixel=OnePixel()), picture, preparation, "pixel")
    assert found.size == 8
    assert found.starts.tolist() == list(range(0, 49, 2))


def test_an_occlusion_is_drawn(tmp_path, monkeypatch):
    """Thirteen labels: eleven have colours of their own, the others are another."""
    numbers = np.minimum(np.arange(16), 12).reshape(4, 4)
    found = look.Occlusion(
        5, np.arange(4) * 5, numbers / 100, numbers, numbers - 3.0, 2, "relu5", 7
    )
    names = [f"class {i}" for i in range(13)]
    picture = np.zeros((20, 20, 1), np.uint8)
    for predicted, words in ((False, "class 2"), (True, "class 2 (predicted)")):
        drawn = figures(monkeypatch, "occlusion")
        look.draw_occlusion(found, picture, names, tmp_path / "o.png", predicted)
        first, probability, labels, strength = drawn[0].axes[:4]
        assert first.get_title() == f"{words}; the square"
        (square,) = first.patches
        assert (square.get_width(), square.get_height()) == (5, 5)
        assert probability.collections[0].get_clim() == (0, 1)
        assert strength.collections[0].get_clim() == (-3, 9)
        assert strength.get_title() == "relu5, map 7, summed"
        said = [text.get_text() for text in labels.get_legend().get_texts()]
        assert said == ["class 12", *(f"class {i}" for i in range(10)), "another"]
        shown = labels.collections[0].get_array()
        assert np.array_equal(shown, np.where(numbers == 12, 0, np.minimum(numbers + 1, 11)))


def test_occlusion_of_a_network(model, loader, tmp_path, monkeypatch):
    batches = loader(8)
    crop = batches.preparation.crop_of(batches.pictures.read(2))
    found = look.occlude(model, crop, batches.preparation, "relu5", label=1)
    x = batches.preparation.centre(crop[None].copy())
    x[0, : found.size, -found.size :] = (128 - 100) * 0.02
    y, p = model.run(x, "relu5").data[0, ..., found.map].sum(), F.softmax(model(x)).data[0]
    np.testing.assert_allclose(found.strength[0, -1], y, rtol=1e-4)
    np.testing.assert_allclose(found.probability[0, -1], p[1], rtol=1e-4)
    drawn = figures(monkeypatch, "occlusion")
    look.draw_occlusion(found, crop, [f"class {i}" for i in range(10)], tmp_path / "o.png")
    _, probability, labels, strength, *_ = drawn[0].axes
    assert np.array_equal(probability.collections[0].get_array(), found.probability)
    assert np.array_equal(strength.collections[0].get_array(), found.strength)
    edges = probability.collections[0].get_coordinates()
    middles = found.starts + found.size / 2
    assert ((edges[:-1, 0, 1] < middles) & (middles < edges[1:, 0, 1])).all()
    assert np.array_equal(edges[0, :, 0], edges[:, 0, 1])
    assert probability.get_ylim() == (67, 0), "row 0 is above"
    most = f"class {np.bincount(found.likeliest.ravel()).argmax()}"
    assert labels.get_legend().get_texts()[0].get_text() == most
    other = look.occlude(model, crop, batches.preparation, "relu5", map=4)
    assert other.map == 4
    assert not np.array_equal(other.strength, found.strength)
    with pytest.raises(ValueError, match="relu5 has maps 0 to 15, not 16"):
        look.occlude(model, crop, batches.preparation, "relu5", map=16)
    for size, stride in ((8, 9), (68, 1), (0, 0)):
        with pytest.raises(ValueError, match="do not cover every pixel of 67"):
            look.occlude(model, crop, batches.preparation, "relu5", size=size, stride=stride)
    with pytest.raises(ValueError, match="unknown stage 'conv9': choose from conv1"):
        look.occlude(model, crop, batches.preparation, "conv9")


def test_changes_of_a_picture():
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for change, identity in look.IDENTITY.items():
        assert np.array_equal(look.changed(picture, change, identity), picture)
    down = look.changed(picture, "translation", 5)
    assert np.array_equal(down[5:], picture[:-5])
    assert (down[:4] == 128).all()
    for quarters in (1, 2, 3):
        turned = look.changed(picture, "rotation", 90 * quarters).astype(int)
        difference = np.abs(turned - np.rot90(picture, quarters))
        assert difference[1:-1, 1:-1].max() <= 1  # Pillow rounds down
    ramp = np.repeat(np.arange(16, dtype=np.uint8)[:, None, None] * 10, 16, axis=1)
    larger = look.changed(ramp, "scale", 2)[4:12, 8, 0].astype(int)
    assert set(np.diff(larger)) == {5}
    assert abs(larger.mean() - 75) <= 1
    with pytest.raises(ValueError, match="change must be one of translation, scale, rotation"):
        look.changed(picture, "shear", 1)


def test_invariance_is_0_at_the_identity(model, loader, tmp_path):
    batches = loader(8)
    raw = np.stack([batches.pictures.read(i) for i in (0, 7)])
    x = batches.prepare(np.array([0, 7]))[0]
    p = F.softmax(model(x)).data
    found = []
    for change, identity in look.IDENTITY.items():
        amounts = [identity, identity + 7]
        one = look.measure_invariance(
            model, raw, [3, 4], batches.preparation, ["pool1", "relu7"], change, amounts
        )
        for distances in one.distances.values():
            assert (distances[:, 0] == 0).all()
            assert (distances[:, 1] > 0).all()
        np.testing.assert_allclose(one.probability[:, 0], p[[0, 1], [3, 4]], rtol=1e-4)
        moved = np.stack([look.changed(picture, change, identity + 7) for picture in raw])
        y = batches.preparation.centre(moved)
        np.testing.assert_allclose(
            one.probability[:, 1], F.softmax(model(y)).data[[0, 1], [3, 4]], rtol=1e-4
        )
        away = model.run(y, "relu7").data - model.run(x, "relu7").data
        np.testing.assert_allclose(
            one.distances["relu7"][:, 1], np.linalg.norm(away, axis=1), rtol=1e-3
        )
        found.append(one)
    path = look.draw_invariance(
        found, [3, 4], [f"class {i}" for i in range(10)], tmp_path / "i.png"
    )
    assert pixels_of(path).std() > 5
    with pytest.raises(ValueError, match="unknown stage 'relu9'"):
        look.measure_invariance(model, raw, [3, 4], batches.preparation, ["relu9"], "scale", [1])


def test_the_figures_own_amounts(model, loader):
    """Zeiler and Fergus, figure 5: pixels of 256, up to 1.8 times, the whole circle."""
    assert list(look.CHANGES["translation"]) == list(range(-60, 61, 6))
    np.testing.assert_allclose(look.CHANGES["scale"], np.linspace(1, 1.8, 17))
    assert list(look.CHANGES["rotation"]) == [15 * n for n in range(24)]
    raw = loader(8).pictures.read(0)[None]
    preparation = loader(8).preparation
    for change, unit in (("translation", (SIDE + 3) / 256), ("scale", 1)):
        found = look.measure_invariance(model, raw, [0], preparation, ["pool1"], change)
        np.testing.assert_allclose(found.amounts, unit * np.array(look.CHANGES[change]))
        assert found.probability.shape == found.distances["pool1"].shape == (1, len(found.amounts))


def test_invariance_is_drawn(tmp_path, monkeypatch):
    numbers = np.random.default_rng(0)
    found = [
        look.Invariance(change, amounts, {"pool1": numbers.random((2, 3))}, numbers.random((2, 3)))
        for change, amounts in (("scale", np.array([1.0, 2, 3])), ("rotation", np.arange(3.0)))
    ]
    drawn = figures(monkeypatch, "invariance")
    look.draw_invariance(found, [1, 0], ["tabby, cat", "king penguin"], tmp_path / "i.png")
    axes = np.reshape(drawn[0].axes, (2, 2))
    for row, one in zip(axes, found):
        for plot, values, said in zip(
            row,
            (one.distances["pool1"], one.probability),
            ("pool1: distance", "probability of its class"),
        ):
            assert (plot.get_xlabel(), plot.get_ylabel()) == (one.change, said)
            for line, curve, name in zip(plot.get_lines(), values, ("king penguin", "tabby")):
                np.testing.assert_array_equal(line.get_xdata(), one.amounts)
                np.testing.assert_array_equal(line.get_ydata(), curve)
                assert line.get_label() == name
    legend = axes[0, 1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["king penguin", "tabby"]


@pytest.mark.parametrize("batch_size", [3, 20])
def test_neighbours_are_those_of_brute_force(model, loader, batch_size, tmp_path, monkeypatch):
    """Picture 13 is picture 4 again: each is the other's nearest, at distance 0."""
    queries = [13, 2, 4]
    found = look.find_neighbours(model, loader(batch_size), queries, "relu7", k=5)
    with no_grad():
        x = loader(1).prepare(np.arange(20))[0]
        every = model.run(x, "relu7").data.astype(np.float64)
    for q, nearest, distances in zip(queries, found.pictures, found.distances):
        far = np.linalg.norm(every - every[q], axis=1)
        order = [i for i in np.argsort(far, kind="stable") if i != q][:5]
        assert nearest.tolist() == order
        np.testing.assert_allclose(distances, far[order], rtol=1e-4, atol=1e-6)
    assert (found.pictures[0, 0], found.pictures[2, 0]) == (4, 13)
    sheets = captured(monkeypatch, "neighbours")
    look.draw_neighbours(found, lambda i: crop(loader(1), i), "relu7", tmp_path / "n.png")
    numbers = [int(caption.split(":")[0]) for caption in sheets[0]["captions"]]
    assert numbers == [n for q, row in zip(queries, found.pictures) for n in (q, *row)]
    assert sheets[0]["captions"][:2] == ["13: picture", "4: 0"]
    for number, tile in zip(numbers, sheets[0]["tiles"]):
        assert np.array_equal(tile, sheet.enlarged(crop(loader(1), number), 96))
    few = look.find_neighbours(model, loader(6), [0], "relu7", k=30)
    assert few.pictures.shape == (1, 19)
    with pytest.raises(ValueError, match="unknown stage 'fc9'"):
        look.find_neighbours(model, loader(6), [0], "fc9")


def test_features_are_followed(model, loader, tmp_path, monkeypatch):
    """Each moment is that of its own weights, and the model keeps its own."""
    before = model.state_dict()
    convs = {name: w for name, w in before.items() if name.startswith("conv")}
    other = Network(model.preset, 10, seed=7)
    others = {name: w for name, w in other.state_dict().items() if name.startswith("conv")}
    maps = [0, 3, 8]
    kept = [(1, others), (5, convs), (5.5, convs)]
    moments = look.follow_features(model, kept, loader(8), "relu5", maps)
    for moment, (epoch, _), network in zip(moments, kept, (other, model, model)):
        assert moment.epoch == epoch
        found = look.find_strongest(network, loader(8), ["relu5"], k=1)["relu5"]
        assert np.array_equal(moment.strongest.pictures, found.pictures)
        assert np.array_equal(moment.strongest.values, found.values)
        pixels = look.project_strongest(network, loader(8), "relu5", found, maps)
        assert set(moment.pixels) == {m for m, _ in pixels}
        assert all(np.array_equal(moment.pixels[m], p) for (m, _), p in pixels.items())
    assert 3 not in moments[1].pixels, "map 3 is never active in the model"
    sheets = captured(monkeypatch, "evolution")
    look.draw_evolution(moments, model, "relu5", maps, tmp_path / "e.png")
    expected = []
    for m in maps:
        seen = [int(moment.strongest.pictures[0, m]) for moment in moments]
        for n, (moment, picture) in enumerate(zip(moments, seen)):
            jump = "*" if n and picture != seen[n - 1] else ""
            says = f"{picture}{jump}" if m in moment.pixels else "none"
            expected.append(f"{m} @{moment.epoch:g}: {says}")
    assert sheets[0]["captions"] == expected
    assert sheets[0]["columns"] == len(moments)
    row = next(r for r in ledger(model.preset, 10) if r.stage == "relu5")
    last = moments[-1]
    seen = look.patch(last.pixels[8], row, last.strongest.at[0, 8], fill=0)
    seen = sheet.shrunk(seen, 96)
    expected = sheet.enlarged(sheet.coloured(seen, sheet.contrast(seen)), 96)
    assert np.array_equal(sheets[0]["tiles"][-1], expected)
    with pytest.raises(ValueError, match="no features were kept"):
        look.follow_features(model, [], loader(8), "relu5", maps)
    expected = sheets[0]["captions"]
    jumps = [caption.endswith("*") for caption in expected]
    assert jumps[1] or jumps[7], "these networks differ in their strongest pictures"
    assert not any((jumps[2], jumps[8])), "the same weights have the same"
    del others["conv2.w"]
    with pytest.raises(ValueError, match="the features kept at epoch 9 have no conv2.w of shape"):
        look.follow_features(model, [(9, others)], loader(8), "relu5", maps)
    assert all(np.array_equal(w, before[name]) for name, w in model.state_dict().items())


def test_a_figure_of_nine(model, loader, tmp_path, monkeypatch):
    """A map's nine patches and projections; a map that is never active is empty, with its count."""
    batches = loader(8)
    found = look.find_strongest(model, batches, ["relu5"])["relu5"]
    pixels = look.project_strongest(model, batches, "relu5", found, [0, 3])
    row = next(r for r in ledger(model.preset, 10) if r.stage == "relu5")

    def crop_of(number):
        return crop(batches, number)

    page = pixels_of(look.draw_nine(found, row, [3], crop_of, pixels, tmp_path / "n.png"))
    tile = sheet.hatched(64, 64)[..., 0]
    windows = np.lib.stride_tricks.sliding_window_view(page[..., 0], tile.shape)
    assert (windows == tile).all(axis=(2, 3)).sum() == 18
    sheets = captured(monkeypatch, "activations")
    look.draw_nine(found, row, [0], crop_of, pixels, tmp_path / "n.png")
    patches, projections, whole = sheets
    assert whole["captions"] == [f"map 0: active in {found.active[0]} of 20 pictures"]
    ever = (found.active > 0).sum()
    assert ever < 16
    assert whole["title"].endswith(f"what caused them; {ever} of 16 maps are ever active")
    for r in range(9):
        if found.pictures[r, 0] < 0:
            continue
        seen = look.patch(crop_of(int(found.pictures[r, 0])), row, found.at[r, 0])
        assert np.array_equal(patches["tiles"][r], sheet.shrunk(seen, 64))
        caused = sheet.shrunk(look.patch(pixels[0, r], row, found.at[r, 0], fill=0), 64)
        expected = sheet.coloured(caused, sheet.contrast(caused))
        assert np.array_equal(projections["tiles"][r], expected)


def test_projections_are_drawn(tmp_path, monkeypatch):
    """A row for each map: the picture, then each method's pixels with their own limit."""
    numbers = np.random.default_rng(0)
    picture = numbers.integers(0, 256, (67, 67, 3), np.uint8)
    ways = {
        name: numbers.normal(size=(2, 67, 67, 3)) * np.array([1, 50]).reshape(2, 1, 1, 1)
        for name in ("deconvnet", "guided")
    }
    row = next(r for r in ledger(alexnet.PAPER) if r.stage == "relu5")
    sheets = captured(monkeypatch, "activations")
    look.draw_projections(picture, row, ways, [4, 9], [0.5, 12.345678], tmp_path / "p.png")
    (found,) = sheets
    assert found["columns"] == 3
    assert found["title"].startswith("relu5: ")
    tiles, captions = [], []
    for n, first in enumerate(("map 4: 0.5", "map 9: 12.35")):
        limits = [sheet.contrast(pixels[n]) for pixels in ways.values()]
        captions += [first, *(f"{name}, to {v:.2g}" for name, v in zip(ways, limits))]
        tiles += [picture, *(sheet.coloured(p[n], v) for p, v in zip(ways.values(), limits))]
    assert found["captions"] == captions
    for tile, expected in zip(found["tiles"], tiles, strict=True):
        assert np.array_equal(tile, sheet.enlarged(expected, 227))


def test_units_are_64_in_a_row(tmp_path):
    """The places behind the last unit are grey."""
    page = pixels_of(look.draw_maps(np.arange(1.0, 71), "fc", tmp_path / "units.png"))
    units = page[17 + 4 : 17 + 16 : 8, 3 + 4 : 3 + 512 : 8]
    assert units.shape == (2, 64, 3)
    shown = sheet.signed(np.arange(1.0, 71)[None])[0]
    assert np.array_equal(units[0], shown[:64])
    assert np.array_equal(units[1, :6], shown[64:])
    assert (units[1, 6:] == 225).all()


def test_curves_are_drawn(tmp_path, monkeypatch):
    """Each from its own column, accuracy in percent."""
    steps = [{"epoch": f"{n / 4}", "loss": f"{3 - n / 8}"} for n in range(8)]
    names = ("train_loss", "val_loss", "train_top1", "val_top1", "val_top5")
    epochs = [
        {"epoch": str(e)} | {name: f"{(n + e) / 10}" for n, name in enumerate(names)}
        for e in (1, 2, 3)
    ]
    drawn = figures(monkeypatch, "pictures")
    look.draw_curves(steps, epochs, tmp_path / "c.png")
    losses, accuracies = ([line.get_xydata() for line in a.get_lines()] for a in drawn[0].axes)
    np.testing.assert_allclose(losses[0], [[n / 4, 3 - n / 8] for n in range(8)])
    for n, points in enumerate([*losses[1:], *accuracies]):
        scale = 100 if n >= 2 else 1
        np.testing.assert_allclose(points, [[e, scale * (n + e) / 10] for e in (1, 2, 3)])
    legends = [text.get_text() for a in drawn[0].axes for text in a.get_legend().get_texts()]
    assert legends == [
        "training, each step", "training", "held out", "training (augmented, with dropout)",
        "held out, top-1", "held out, top-5",
    ]  # fmt: skip


def test_predictions_are_drawn(tmp_path, monkeypatch):
    """The class above; bars as long as the probabilities below, the right one in green."""
    names = ["a, the first", "b", "x" * 22, "y" * 23]
    p = np.array([[0.1, 0.6, 0.3, 0.0], [0.5, 0.2, 0.1, 0.2]])
    picture = np.zeros((50, 50, 3), np.uint8)
    sheets = captured(monkeypatch, "pictures")
    look.draw_predictions([picture] * 2, [2, 3], p, names, tmp_path / "p.png", best=3)
    assert sheets[0]["captions"] == ["x" * 22, "y" * 21 + "\u2026"]
    assert [tile.shape for tile in sheets[0]["tiles"]] == [(150 + 3 * 14, 150, 3)] * 2
    names = ["a", "b", "c"]
    bars = pictures_by_matplotlib.bars(p[0, :3], 2, names, 101, best=9)
    assert bars.shape == (3 * 14, 101, 3)
    for n, (length, colour) in enumerate(((60, 200), (30, 128), (10, 200))):
        line = bars[14 * n + 7]
        assert line[0, 0] == line[length, 0] == colour
        assert (line[length + 1 :] == 255).all()
    assert pictures_by_matplotlib.short("tabby, tabby cat") == "tabby"


def test_stages_to_look_at():
    for name, features, hidden in (
        ("paper", "relu5", "relu7"), ("lenet5", "tanh2", "tanh4"),
        ("cifar10_26pct", "relu3", "relu4"),
    ):  # fmt: skip
        found = feature_stage(alexnet.MODELS[name]), last_hidden_stage(alexnet.MODELS[name])
        assert found == (features, hidden)


def test_seconds_by_stage(model, monkeypatch):
    seconds = look.stage_seconds(model, batch=2, repeats=2)
    assert list(seconds) == model.stages
    assert all(value > 0 for value in seconds.values())

    def clock():
        """Stage n takes n seconds; in the second pass twice, in the third nine times as many."""
        now = 0.0
        for times in (1, 2, 9):
            yield now
            for n in range(len(model.stages)):
                now += n * times
                yield now
            now += 1000

    ticks = clock()
    watch = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr(sys.modules["minigrad.look.ledgers"], "time", watch)
    seconds = look.stage_seconds(model, batch=4, repeats=3)
    assert list(seconds.values()) == [2 * n / 4 for n in range(len(model.stages))]


def test_a_ledger_as_a_picture(tmp_path, monkeypatch):
    rows = ledger(alexnet.PAPER)
    seconds = {"paper": {row.stage: 0.001 * n for n, row in enumerate(rows)}}
    drawn = figures(monkeypatch, "ledgers")
    both = {"paper": rows, "lenet5": ledger(alexnet.MODELS["lenet5"])}
    look.draw_ledgers(both, tmp_path / "ledger.png", seconds)
    panels = {axes.get_title(): axes for axes in drawn[0].axes}

    def heights(title, group=0):
        return [bar.get_height() for bar in panels[title].containers[group]]

    assert heights("paper: 60,965,224 parameters") == [row.parameters for row in rows]
    assert sum(heights("paper: 724,406,816 multiply-adds")) == 724_406_816
    memory = "paper: kilobytes a picture"
    assert heights(memory) == [row.bytes_out / 1e3 for row in rows]
    assert heights(memory, 1) == [row.bytes_kept / 1e3 for row in rows]
    assert [text.get_text() for text in panels[memory].get_legend().get_texts()] == [
        f"output, {sum(row.bytes_out for row in rows) / 1e3:,.0f}",
        f"kept for backward, {sum(row.bytes_kept for row in rows) / 1e3:,.0f}",
    ]
    np.testing.assert_allclose(heights("paper: 231 milliseconds a picture, forward"), range(22))
    assert "lenet5: 61,706 parameters" in panels


def test_a_dense_layer_with_a_rest():
    """A block at the border is the mean of what it has."""
    tile = filters.dense_sheet(np.ones((1025, 2)), "fc")[17:]
    assert (tile[:256, 3 : 3 + 513] == [178, 24, 43]).all()


def test_a_patch_wholly_outside():
    row = Row("pool", None, (), (3, 3, 1), 0, 0, 0, 0, 1, 1, -2, "")
    assert (look.patch(np.zeros((9, 9, 3), np.uint8), row, (0, 1), 7) == 7).all()


def test_nothing_readable(loader, model, monkeypatch):
    batches = loader(8)
    monkeypatch.setattr(type(batches.pictures), "read", unreadable)
    batches.most_skipped = 1.0
    with pytest.raises(data.DataError, match="not one readable picture"):
        look.find_strongest(model, batches, ["relu5"])
    with pytest.raises(data.DataError, match="whose neighbours are wanted can be read"):
        look.find_neighbours(model, batches, [0, 1], "relu7")


def unreadable(self, i):
    raise data.ImageError(f"picture {i}: damaged")
