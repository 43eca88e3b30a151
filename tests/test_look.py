"""The instruments of minigrad/look/ on small networks, against brute force and planted models."""

import sys

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
    m, r = maps[1], 4
    x = loader(1).prepare(found.pictures[r : r + 1, m])[0]
    alone = look.project(model, x, "relu5", maps=int(m), at=found.at[r, m])
    np.testing.assert_allclose(pixels[m, r], alone.pixels[0], rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="unknown stage conv9: choose from conv1, relu1"):
        look.find_strongest(model, loader(6), ["relu5", "conv9"])


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
    assert (corner[227 - 128 :] == 255).all()
    assert look.patch(picture, rows["fc6"], (0, 0)) is picture


def crop(loader, number):
    return loader.preparation.crop_of(loader.pictures.read(number))


def captured(monkeypatch, module):
    """The arguments of every sheet that a file of look/ lays out from here on."""
    own, seen = sheet.sheet, []

    def keep(tiles, columns=0, captions=(), title="", limit=None):
        seen.append({"tiles": tiles, "captions": list(captions), "title": title, "limit": limit})
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


def test_a_dense_layer_larger_than_its_picture():
    w = np.zeros((3000, 2))
    w[3:6, 1] = 2, 0, 2  # one pixel: the root mean square of three inputs
    tile = filters.dense_sheet(w, "fc")[17:]
    assert tile[255, 3 + 1].tolist() == tile[128, 3 + 1].tolist() == [178, 24, 43]
    assert tile[:128, 3:1003].min() == tile[128:256, 3 + 2 : 1003].min() == 255


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


def test_the_spectrum_is_drawn(tmp_path):
    w = np.random.default_rng(0).normal(size=(5, 5, 3, 8))
    path = look.draw_spectrum({"a": (w, 4), "b": (w, 1)}, tmp_path / "spectrum.png")
    assert pixels_of(path).std() > 5


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
    for r in range(9):
        if found.pictures[r, 0] < 0:
            continue
        seen = look.patch(crop_of(int(found.pictures[r, 0])), row, found.at[r, 0])
        assert np.array_equal(patches["tiles"][r], sheet.shrunk(seen, 64))
        caused = sheet.shrunk(look.patch(pixels[0, r], row, found.at[r, 0], fill=0), 64)
        expected = sheet.coloured(caused, sheet.contrast(caused))
        assert np.array_equal(projections["tiles"][r], expected)


def test_stages_to_look_at():
    for name, features, hidden in (
        ("paper", "relu5", "relu7"), ("lenet5", "tanh2", "tanh4"), ("cifar10", "relu3", "relu4"),
    ):  # fmt: skip
        found = feature_stage(alexnet.MODELS[name]), last_hidden_stage(alexnet.MODELS[name])
        assert found == (features, hidden)


def test_seconds_by_stage(model):
    seconds = look.stage_seconds(model, batch=2, repeats=2)
    assert list(seconds) == model.stages
    assert all(value > 0 for value in seconds.values())


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
