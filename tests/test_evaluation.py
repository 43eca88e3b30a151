"""Accuracy by hand, the paper's ten views, ensembles, and the tables that are written."""

import csv

import numpy as np
import pytest

from minigrad import data, nn
from minigrad import functions as F
from minigrad.data.preparation import Preparation
from minigrad.distributed import Communicator
from minigrad.engine import Tensor
from minigrad.look import draw_confusion, pictures
from minigrad.training.evaluation import (
    Evaluation,
    ensemble,
    evaluate,
    scored,
    write_by_class,
    write_predictions,
)
from minigrad.training.run_folder import checkpoint_of
from tests.test_data import gradient_pictures

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3], [0.4, 0.35, 0.25]])
RESULT = scored(P, np.array([0, 1, 1, 2]), np.array([5, 6, 7, 8]))


def test_by_hand():
    assert RESULT.top(1) == 0.5
    assert RESULT.top(2) == 0.75
    assert RESULT.loss == pytest.approx(-np.log([0.7, 0.3, 0.5, 0.25]).mean())
    np.testing.assert_allclose(RESULT.by_class(), [[1, 1, 1], [2, 0.5, 1], [1, 0, 1]])
    np.testing.assert_array_equal(RESULT.confusion(), [[1, 0, 0], [0, 1, 1], [1, 0, 0]])
    assert np.isnan(Evaluation(P, np.array([0, 0, 1, 1]), np.arange(4), 0.0).by_class()[2, 1])


def test_five_of_seven_classes(tmp_path):
    """The second picture's class is fifth, the third's sixth; class a is taken for b, b for g."""
    p = np.array([
        [0.30, 0.40, 0.10, 0.08, 0.06, 0.04, 0.02],
        [0.20, 0.10, 0.15, 0.16, 0.09, 0.05, 0.25],
        [0.30, 0.08, 0.15, 0.16, 0.09, 0.05, 0.17],
    ])  # fmt: skip
    result = scored(p, np.array([0, 1, 1]), np.arange(3))
    np.testing.assert_array_equal(result.by_class()[:2], [[1, 0, 1], [2, 0, 0.5]])
    assert [result.top(k) for k in (1, 2, 4, 5, 6)] == [0, 1 / 3, 1 / 3, 2 / 3, 1]
    folders, names = list("abcdefg"), [f"the {c}" for c in "abcdefg"]
    write_by_class(
        tmp_path / "c.csv", scored(p[:2], np.array([0, 1]), np.arange(2)), folders, names
    )
    rows = list(csv.reader((tmp_path / "c.csv").read_text().splitlines()))
    assert rows[1:4] == [
        ["a", "the a", "1", "0.0000", "1.0000", "b"],
        ["b", "the b", "1", "0.0000", "1.0000", "g"],
        ["c", "the c", "0", "nan", "nan", ""],
    ]
    write_predictions(tmp_path / "p.csv", result, ["1.png", "2.png", "3.png"], folders)
    rows = list(csv.reader((tmp_path / "p.csv").read_text().splitlines()))
    assert [row[2::2] for row in rows[1:]] == [list("bacde"), list("gadcb"), list("agdce")]
    assert rows[2][3::2] == ["0.250000", "0.200000", "0.160000", "0.150000", "0.100000"]


def test_a_probability_of_0_has_a_loss():
    result = scored(np.array([[0.0, 1.0]], np.float32), np.array([0]), np.array([0]))
    assert result.loss == pytest.approx(-np.log(np.finfo(np.float32).tiny))


def test_a_run_is_its_newest_checkpoint(tmp_path):
    assert checkpoint_of(tmp_path) == tmp_path / "checkpoint.safetensors"
    assert checkpoint_of(tmp_path / "a") == tmp_path / "a"


def test_an_ensemble_averages_probabilities():
    other = scored(P[:, ::-1].copy(), RESULT.labels, RESULT.indices)
    both = ensemble([RESULT, other])
    np.testing.assert_allclose(both.probabilities, (P + P[:, ::-1]) / 2)
    assert both.loss == pytest.approx(-np.log(both.probabilities[range(4), RESULT.labels]).mean())
    with pytest.raises(ValueError, match="same pictures"):
        ensemble([RESULT, scored(P, RESULT.labels, RESULT.indices + 1)])
    with pytest.raises(ValueError, match="same pictures"):
        ensemble([RESULT, scored(P, RESULT.labels[::-1], RESULT.indices)])


def test_ten_views_of_a_picture(tmp_path):
    """Red is a picture's column, green its row: the corners of each view say where it was taken,
    and whether it is mirrored."""
    prep = Preparation(224, np.zeros(3, np.float32), 1.0)
    picture = gradient_pictures(tmp_path).read(0)
    corners = {
        tuple(v[0][0, 0, :2].astype(int)) + tuple(v[0][-1, -1, :2].astype(int))
        for v in prep.views(picture[None])
    }
    expected = set()
    for top, left in ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16)):
        expected |= {(left, top, left + 223, top + 223), (left + 223, top, left, top + 223)}
    assert corners == expected


class Brightness(nn.Module):
    """Probabilities that depend on a view: softmax of (mean red / 100, 0)."""

    def forward(self, x):
        red = (x.data if isinstance(x, Tensor) else x)[..., 0].mean(axis=(1, 2)) / 100
        return Tensor(np.stack([red, 0 * red], axis=1))


def test_the_ten_outputs_are_averaged_after_the_softmax(tmp_path):
    pictures = gradient_pictures(tmp_path)
    prep = Preparation(224, np.zeros(3, np.float32), 1.0)
    result = evaluate(
        Brightness(), data.Loader(pictures, prep, 16, False, workers=0, ten_views=True)
    )
    by_hand = np.mean(
        [F.softmax(Brightness()(Tensor(v))).data for v in prep.views(pictures.read(0)[None])],
        axis=0,
    )[0]
    np.testing.assert_allclose(result.probabilities, np.tile(by_hand, (40, 1)), rtol=1e-6)
    centre = evaluate(Brightness(), data.Loader(pictures, prep, 16, False, workers=0))
    assert abs(centre.probabilities[0, 0] - by_hand[0]) > 1e-6


def test_the_pictures_of_all_ranks_in_order(tmp_path):
    """The first rank has the second half of them, and one rank has none."""
    pictures = gradient_pictures(tmp_path)
    prep = Preparation(224, np.zeros(3, np.float32), 1.0)
    whole = evaluate(Brightness(), data.Loader(pictures, prep, 8, False, workers=0))

    class Ranks(Communicator):
        size = 3

        def exchange(self, own):
            probabilities, labels, indices = own
            return [[probabilities, labels, indices + 40], [], [probabilities / 2, labels, indices]]

    loader = data.Loader(pictures, prep, 8, False, workers=0)
    result = evaluate(Brightness(), loader, comm=Ranks())
    np.testing.assert_array_equal(result.indices, np.arange(80))
    expected = np.concatenate([whole.probabilities / 2, whole.probabilities])
    np.testing.assert_array_equal(result.probabilities, expected)


def test_tables_and_pictures(tmp_path):
    write_predictions(
        tmp_path / "p.csv", RESULT, ["a.jpg", "b,b.jpg", "c.jpg", "d.jpg"], ["x", "y", "z"]
    )
    rows = list(csv.reader((tmp_path / "p.csv").read_text().splitlines()))
    assert rows[0] == [
        "picture",
        "class",
        "guess1",
        "probability1",
        "guess2",
        "probability2",
        "guess3",
        "probability3",
    ]
    assert rows[2] == ["b,b.jpg", "y", "z", "0.600000", "y", "0.300000", "x", "0.100000"]
    write_by_class(tmp_path / "c.csv", RESULT, ["x", "y", "z"], ["ex", "why", "zed"])
    rows = list(csv.reader((tmp_path / "c.csv").read_text().splitlines()))
    assert rows[2] == ["y", "why", "2", "0.5000", "1.0000", "z"]
    assert rows[3] == ["z", "zed", "1", "0.0000", "1.0000", "x"]
    assert (
        draw_confusion(RESULT.confusion(), ["ex", "why", "zed"], tmp_path / "c.png").stat().st_size
        > 1000
    )


def test_confusion_is_drawn_as_shares_of_each_row(tmp_path, monkeypatch):
    own, drawn = pictures.new_figure, []
    monkeypatch.setattr(pictures, "new_figure", lambda size: drawn.append(own(size)) or drawn[-1])
    counts = np.array([[3, 1, 0], [0, 0, 0], [2, 2, 6]])
    draw_confusion(counts, ["ex, the letter", "why", "zed"], tmp_path / "c.png")
    (axes,) = drawn[0].axes
    shares = [[0.75, 0.25, 0], [0, 0, 0], [0.2, 0.2, 0.6]]
    np.testing.assert_allclose(axes.images[0].get_array(), shares)
    said = {text.get_position(): text.get_text() for text in axes.texts}
    assert said == {(0, 0): "3", (1, 0): "1", (0, 2): "2", (1, 2): "2", (2, 2): "6"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ex", "why", "zed"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("most probable class", "right class")
