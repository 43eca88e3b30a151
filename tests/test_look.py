"""The instruments of minigrad/look/ on small networks, against brute force and planted models."""

import numpy as np
import pytest

import alexnet
from minigrad import data, look
from minigrad.engine import no_grad
from minigrad.network import Network, ledger, shrunken

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
