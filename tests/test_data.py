"""Pictures of every kind, folders good and bad, the cache, and batches that do not depend on the
number of workers."""

import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alexnet
from minigrad import data
from minigrad.data import cache as cache_module
from minigrad.data import synthetic
from minigrad.data.images import FORMATS
from minigrad.data.preparation import Preparation, statistics
from minigrad.models.lenet import LENET5
from minigrad.models.records import Preprocessing

ROOT = Path(__file__).resolve().parents[1]
RED = (200, 30, 40)


def save(path, mode="RGB", size=(60, 40), colour=RED, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


@pytest.fixture
def tree(tmp_path):
    """Two classes of six pictures, each of its own grey level."""
    for c in ("b_class", "a_class"):
        for i in range(6):
            save(
                tmp_path / "set" / c / f"{i}.png",
                colour=(10 * i, 100, 200 if c == "a_class" else 50),
            )
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("mode", "colour", "name", "expected"),
    [
        ("RGB", RED, "a.png", RED),
        ("RGB", RED, "a.JPEG", RED),
        ("L", 90, "a.jpg", (90, 90, 90)),
        ("CMYK", (0, 255, 255, 0), "a.jpg", (255, 0, 0)),
        ("RGBA", (200, 30, 40, 0), "a.png", (255, 255, 255)),
        ("RGBA", (200, 30, 40, 255), "a.png", RED),
        ("LA", (90, 255), "a.png", (90, 90, 90)),
        ("1", 1, "a.png", (255, 255, 255)),
        ("I;16", 65535, "a.png", (255, 255, 255)),
        ("I;16", 257 * 80, "a.png", (80, 80, 80)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, colour, name, expected):
    pixels = data.read_image(save(tmp_path / name, mode, colour=colour))
    assert (pixels.shape, pixels.dtype) == ((256, 256, 3), np.uint8)
    np.testing.assert_allclose(pixels[128, 128], expected, atol=4)


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("RGB", (30, 30), RED).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "p.png")
    np.testing.assert_allclose(data.read_image(tmp_path / "p.png")[9, 9], RED, atol=4)
    image.save(tmp_path / "t.png", transparency=image.getpixel((0, 0)))
    np.testing.assert_array_equal(data.read_image(tmp_path / "t.png")[9, 9], (255, 255, 255))


def test_exif_rotation(tmp_path):
    image = Image.new("RGB", (64, 64), "black")
    image.paste((255, 255, 255), (0, 0, 64, 32))  # white on top
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show: white comes to the right
    image.save(tmp_path / "e.jpg", exif=exif)
    pixels = data.read_image(tmp_path / "e.jpg")
    assert pixels[128, 250, 0] > 200
    assert pixels[128, 5, 0] < 50


def test_shorter_side_and_centre(tmp_path):
    """A wide picture keeps its centre: the outer thirds, another colour, are gone."""
    image = Image.new("RGB", (900, 300), "white")
    image.paste(RED, (300, 0, 600, 300))
    image.save(tmp_path / "wide.png")
    pixels = data.read_image(tmp_path / "wide.png")
    inner = pixels[:, 3:-3]  # at the cut, scaling mixes in a neighbour
    np.testing.assert_allclose(inner, np.broadcast_to(RED, inner.shape), atol=3)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (3000, 2), (2400, 1600)])
def test_tiny_and_huge(tmp_path, size):
    pixels = data.read_image(save(tmp_path / "x.jpg", size=size))
    np.testing.assert_allclose(pixels[128, 128], RED, atol=4)


def broken_files(folder):
    folder.mkdir(parents=True, exist_ok=True)
    good = save(folder / "good.jpg", size=(300, 300)).read_bytes()
    (folder / "zero.JPEG").write_bytes(b"")
    (folder / "cut.JPEG").write_bytes(good[: len(good) // 2])
    (folder / "text.JPEG").write_text("not a picture at all")
    (folder / "cut.png").write_bytes(save(folder / "x.png", size=(300, 300)).read_bytes()[:200])
    (folder / "x.png").unlink()
    return [folder / n for n in ("zero.JPEG", "cut.JPEG", "text.JPEG", "cut.png")]


def test_broken_files_are_named(tmp_path):
    for path in broken_files(tmp_path):
        with pytest.raises(data.ImageError, match=str(path)):
            data.read_image(path)


STARTS_NOTHING = """
import os, sys
from pathlib import Path
from minigrad import data
from minigrad.data import download
from minigrad.training import checkpoint
from minigrad.data.images import ImageError

def watch(event, arguments):
    if event in ("subprocess.Popen", "pty.spawn") or event.startswith(
        ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile")
    ):
        print("STARTED", event, arguments, flush=True)
        os._exit(3)

sys.addaudithook(watch)
place = Path(sys.argv[1])
for where in ("folder", "a.zip", "a.tar"):
    images = data.open_sets(place / where, holdout=0.5)[0]
    pictures = data.open_pictures(images, place / "cache", workers=0, say=lambda _: None)
    for i in range(len(images)):
        for read in (pictures.read, data.Pictures(images).read):
            try:
                read(i)
            except ImageError as error:
                print(error)
for name in os.listdir(place / "folder" / "ant"):
    try:
        data.read_image(place / "folder" / "ant" / name)
    except ImageError as error:
        print(error)
try:
    checkpoint.load(place / "folder" / "ant" / "0.jpg")
except checkpoint.CheckpointError as error:
    print(error)
download.unpack(place / "a.tar", place, "ant")
print("started nothing")
"""


def test_no_file_starts_a_program(tmp_path):
    """Pillow hands an EPS to Ghostscript, whatever the file's suffix."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
    program.chmod(0o755)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    members = {f"{c}/{i}.jpg": eps for c in ("ant", "bee") for i in range(2)}
    for name, content in members.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "w") as archive,
        tarfile.open(tmp_path / "a.tar", "w") as tar,
    ):
        for name, content in members.items():
            archive.writestr(name, content)
            tar.add(tmp_path / "folder" / name, name)
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    out = subprocess.run(
        [sys.executable, "-c", STARTS_NOTHING, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert out.stdout.endswith("started nothing\n"), out.stdout + out.stderr
    assert out.stdout.count("it must hold one of JPEG, PNG") == 3 * 2 * 2 + 2, out.stdout
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_each_stated_format_is_read(tmp_path, kind):
    """By its content: the suffix only says that a file is a picture."""
    Image.new("RGB", (300, 300), (200, 100, 50)).save(tmp_path / "a.jpg", kind)
    assert np.abs(data.read_image(tmp_path / "a.jpg").astype(int) - (200, 100, 50)).max() < 10


def test_absurd_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for size in ((40, 40), (400, 400)):  # Pillow warns about the one and refuses the other
        with pytest.raises(data.ImageError, match="refused"):
            data.read_image(save(tmp_path / "x.png", size=size))


def test_class_index_is_sorted_folder_name(tree):
    images = data.open_folder(tree)
    assert images.classes == ["a_class", "b_class"]
    assert [Path(item).parent.name for item in images.items] == ["a_class"] * 6 + ["b_class"] * 6
    np.testing.assert_array_equal(images.labels, [0] * 6 + [1] * 6)


def test_subsets(tree):
    assert data.open_folder(tree, classes=1).classes == ["a_class"]
    assert data.open_folder(tree, classes=["b_class"]).classes == ["b_class"]
    some = data.open_folder(tree, images_per_class=4, seed=1)
    assert len(some) == 8
    assert some.items == data.open_folder(tree, images_per_class=4, seed=1).items
    assert some.items != data.open_folder(tree, images_per_class=4, seed=2).items


def test_hold_out(tree):
    rest, held = data.open_folder(tree).split(1 / 3, seed=0)
    assert (len(rest), len(held)) == (8, 4)
    assert not set(rest.items) & set(held.items)
    np.testing.assert_array_equal(np.bincount(held.labels), [2, 2])


def test_words(tree):
    (tree.parent / "words.txt").write_text("a_class\tgoldfish, Carassius auratus\n")
    assert data.open_folder(tree).names == ["goldfish, Carassius auratus", "b_class"]


@pytest.mark.parametrize(
    ("words", "action"),
    [
        ("there is no folder", lambda t: data.open_folder(t / "nowhere")),
        ("holds no class folders", lambda t: data.open_folder(t / "a_class")),
        ("holds no pictures", lambda t: (t / "empty").mkdir() or data.open_folder(t)),
        ("must be 1 to 2, not 3", lambda t: data.open_folder(t, classes=3)),
        ("has no class folder c_class", lambda t: data.open_folder(t, classes=["c_class"])),
        ("at least 1, not 0", lambda t: data.open_folder(t, images_per_class=0)),
        ("between 0 and 1", lambda t: data.open_folder(t).split(1.5, 0)),
        ("too few to hold out", lambda t: data.open_folder(t).split(0.99, 0)),
    ],
)
def test_bad_folders_get_a_sentence(tree, words, action):
    with pytest.raises(data.DataError, match=words):
        action(tree)


def quiet(_):
    pass


def test_cache_holds_what_the_files_hold(tree, tmp_path):
    images = data.open_folder(tree)
    direct = data.open_pictures(images, None)
    said = []
    cached = data.open_pictures(images, tmp_path / "cache", say=said.append)
    assert "decoding once into 0.00 GB" in said[0]
    again = data.open_pictures(images, tmp_path / "cache", say=said.append)
    assert "decoded before" in said[1]
    for i in range(len(images)):
        np.testing.assert_array_equal(direct.read(i), cached.read(i))
        np.testing.assert_array_equal(direct.read(i), again.read(i))


def test_changed_files_get_a_new_cache(tree, tmp_path):
    data.open_pictures(data.open_folder(tree), tmp_path / "cache", say=quiet)
    save(tree / "a_class" / "0.png", size=(70, 70), colour=(1, 2, 3))
    pictures = data.open_pictures(data.open_folder(tree), tmp_path / "cache", say=quiet)
    np.testing.assert_array_equal(pictures.read(0)[0, 0], (1, 2, 3))


def test_unfinished_caches_of_others_stay_until_they_are_old(tree, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    for name, age in ((".minigrad-fresh", 60), (".minigrad-old", 10 * 24 * 3600)):
        (folder / name).mkdir()
        (folder / name / "a.rgb").write_bytes(b"")
        for path in (folder / name / "a.rgb", folder / name):
            os.utime(path, (time.time() - age,) * 2)
    (folder / "theirs.tmp").write_bytes(b"")
    os.utime(folder / "theirs.tmp", (0, 0))
    data.open_pictures(data.open_folder(tree), folder, say=quiet)
    assert {".minigrad-fresh", "theirs.tmp"} <= (found := {p.name for p in folder.iterdir()})
    assert ".minigrad-old" not in found


def test_a_cache_that_was_changed_is_made_anew(tree, tmp_path):
    pictures = data.open_pictures(data.open_folder(tree), tmp_path / "cache", say=quiet)
    with open(pictures.cache, "r+b") as file:
        file.write(bytes(1000))
    said = []
    again = data.open_pictures(data.open_folder(tree), tmp_path / "cache", say=said.append)
    assert "decoding once" in said[0]
    np.testing.assert_array_equal(again.read(0), data.Pictures(again.images).read(0))


def test_cache_is_off_when_it_does_not_fit(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "LARGEST_CACHE", 1000)
    said = []
    pictures = data.open_pictures(data.open_folder(tree), tmp_path / "cache", say=said.append)
    assert "more than 10 GB or a fifth of the" in said[0]
    assert pictures.cache is None
    assert pictures.read(0).shape == (256, 256, 3)


def test_unwritable_cache_folder_is_no_disaster(tree, tmp_path):
    (tmp_path / "file").write_text("")
    said = []
    assert (
        data.open_pictures(data.open_folder(tree), tmp_path / "file", say=said.append).cache is None
    )
    assert "not cached" in said[0]


@pytest.mark.parametrize("cached", [False, True])
def test_broken_pictures_are_skipped_and_named(tree, tmp_path, cached):
    bad = broken_files(tree / "a_class")
    images = data.open_folder(tree)
    pictures = data.open_pictures(images, tmp_path / "cache" if cached else None, say=quiet)
    loader = data.Loader(pictures, plain(), 5, training=False, workers=1, most_skipped=1.0)
    seen = np.concatenate([i for _, _, i in loader.batches()])
    assert set(loader.skipped) == {str(p) for p in bad}
    assert all(path in reason for path, reason in loader.skipped.items())
    assert len(seen) == len(images) - len(bad)
    assert statistics(pictures).mean.shape == (256, 256, 3)


def test_nothing_readable(tmp_path):
    broken_files(tmp_path / "t" / "a")
    (tmp_path / "t" / "a" / "good.jpg").unlink()
    with pytest.raises(data.ImageError, match="none of the 4 pictures"):
        statistics(data.Pictures(data.open_folder(tmp_path / "t")))


def plain(size=227, **options):
    return Preparation(size, np.zeros(3, np.float32), 1.0, **options)


def gradient_pictures(tmp_path):
    """One picture whose red is its column and green its row: a crop shows where it was taken."""
    y, x = np.mgrid[:256, :256]
    path = tmp_path / "g" / "a" / "0.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)).save(path)
    for i in range(1, 40):
        (path.parent / f"{i:02}.png").write_bytes(path.read_bytes())
    return data.Pictures(data.open_folder(tmp_path / "g"))


def test_crops_and_mirrors(tmp_path):
    loader = data.Loader(gradient_pictures(tmp_path), plain(), 40, training=True, workers=0)
    x, _, _ = next(loader.batches(epoch=3))
    lefts, tops = np.minimum(x[:, 0, 0, 0], x[:, 0, -1, 0]), x[:, 0, 0, 1]
    mirrored = x[:, 0, 0, 0] > x[:, 0, -1, 0]
    assert 8 < mirrored.sum() < 32
    assert min(lefts.min(), tops.min()) >= 0
    assert max(lefts.max(), tops.max()) <= 29
    assert len(set(zip(lefts, tops))) > 30, "each picture has a crop of its own"
    np.testing.assert_array_equal(abs(np.diff(x[:, :, :, 0], axis=2)), 1)
    np.testing.assert_array_equal(np.diff(x[:, :, :, 1], axis=1), 1)


def test_test_view_is_the_centre(tmp_path):
    loader = data.Loader(gradient_pictures(tmp_path), plain(224), 4, training=False, workers=0)
    x, _, indices = next(loader.batches())
    np.testing.assert_array_equal(x[0, 0, 0], [16, 16, 0])
    np.testing.assert_array_equal(indices, range(4))


@pytest.mark.parametrize("cached", [False, True])
def test_same_batches_whatever_the_workers(tree, tmp_path, cached):
    pictures = data.open_pictures(
        data.open_folder(tree), tmp_path / "c" if cached else None, say=quiet
    )
    colour = np.eye(3, dtype=np.float32)

    def epoch(workers, start=0):
        return list(
            data.Loader(pictures, plain(colour=colour), 5, True, seed=4, workers=workers).batches(
                2, start
            )
        )

    reference = epoch(0)
    assert [len(t) for _, t, _ in reference] == [5, 5, 2]
    for workers in (1, 3):
        for ours, theirs in zip(reference, epoch(workers), strict=True):
            for a, b in zip(ours, theirs):
                np.testing.assert_array_equal(a, b)
    for ours, theirs in zip(reference[1:], epoch(2, start=1), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])


def test_epochs_and_seeds_differ(tree):
    pictures = data.Pictures(data.open_folder(tree))

    def order(seed, epoch):
        return [
            int(i)
            for _, _, idx in data.Loader(pictures, plain(), 5, True, seed, 0).batches(epoch)
            for i in idx
        ]

    assert sorted(order(0, 0)) == list(range(12))
    assert len({tuple(order(s, e)) for s in (0, 1) for e in (0, 1)}) == 4


def test_statistics_by_hand(tree):
    pictures = data.Pictures(data.open_folder(tree))
    stats = statistics(pictures)
    pixels = np.concatenate([pictures.read(i).reshape(-1, 3) for i in range(len(pictures))]).astype(
        np.float64
    )
    np.testing.assert_allclose(stats.mean.mean(axis=(0, 1)), pixels.mean(axis=0), rtol=1e-5)
    covariance = np.cov(pixels.T, bias=True)
    rebuilt = (stats.eigenvectors * stats.eigenvalues) @ stats.eigenvectors.T
    np.testing.assert_allclose(rebuilt, covariance, atol=0.05)
    assert stats.eigenvalues[0] >= stats.eigenvalues[1] >= stats.eigenvalues[2]
    np.testing.assert_allclose(stats.std, np.sqrt(np.trace(covariance) / 3), rtol=1e-5)


def test_colour_noise_is_one_shift_for_a_whole_picture(tree):
    pictures = data.Pictures(data.open_folder(tree))
    colour = np.diag([3.0, 2.0, 1.0]).astype(np.float32)
    noisy = next(data.Loader(pictures, plain(colour=colour), 12, True, 1, 0).batches())[0]
    clean = next(data.Loader(pictures, plain(), 12, True, 1, 0).batches())[0]
    shift = noisy - clean
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1], shift.shape), atol=1e-4)
    assert len(np.unique(shift[:, 0, 0, 0])) == 12
    spread = shift[:, 0, 0].std(axis=0)
    assert spread[0] > spread[2] > 0


def test_synthetic_set(tmp_path):
    root = tmp_path / "synthetic"
    synthetic.draw_set(root, train=2, val=1, seed=5)
    train, val = data.open_folder(root / "train"), data.open_folder(root / "val")
    assert (len(train), len(val), train.classes) == (20, 10, list(synthetic.CLASSES))
    before = {p: p.read_bytes() for p in map(Path, map(train.where, range(20)))}
    marker = json.loads((root / "synthetic.json").read_text())
    assert "synthetic" in marker["what"]
    synthetic.draw_set(root, train=2, val=1, seed=5)  # nothing to do
    (root / "synthetic.json").write_text(json.dumps(marker | {"complete": False}))
    Path(train.where(3)).write_bytes(b"")
    synthetic.draw_set(
        root, train=2, val=1, seed=5, workers=1
    )  # was broken off: drawn again, the same
    assert {p: p.read_bytes() for p in map(Path, map(train.where, range(20)))} == before
    one, other = (data.read_image(p).astype(int) for p in (train.where(0), val.where(0)))
    assert abs(one - other).mean() > 5, "training and validation pictures come from other seeds"


def test_synthetic_set_is_not_drawn_over_a_users_folder(tree):
    with pytest.raises(data.DataError, match="holds no synthetic set"):
        synthetic.draw_set(tree)


def test_the_kernel_and_the_array_form_prepare_alike(tree, monkeypatch):
    pictures = data.Pictures(data.open_folder(tree))
    rng = np.random.default_rng(0)
    mean = rng.uniform(0, 255, (227, 227, 3)).astype(np.float32)
    prep = Preparation(227, mean, 1 / 60, rng.standard_normal((3, 3)).astype(np.float32), 1.1)
    batches = []
    for mode in ("auto", "none"):
        monkeypatch.setenv("MINIGRAD_KERNELS", mode)
        batches.append(next(data.Loader(pictures, prep, 12, True, 1, 0).batches())[0])
    np.testing.assert_allclose(batches[0], batches[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["auto", "none"])
@pytest.mark.parametrize(
    ("words", "change"),
    [
        (
            "a crop of 5x5 at .4, 5. reaches outside pictures of 9x9",
            {"crops": np.array([[0, 0, 0], [4, 5, 1]], np.int32)},
        ),
        (
            "a crop of 5x5 at .-1, 0. reaches outside",
            {"crops": np.array([[0, 0, 0], [-1, 0, 0]], np.int32)},
        ),
        (
            "a crop of 5x5 at .0, 0. reaches outside pictures of 4x4",
            {"pictures": np.zeros((2, 4, 4, 3), np.uint8)},
        ),
        (
            r"\(2 or more, side, side, 3\) uint8, not \(2, 9, 8, 3\)",
            {"pictures": np.zeros((2, 9, 8, 3), np.uint8)},
        ),
        (
            r"\(2 or more, side, side, 3\) uint8, not \(2, 9, 9, 1\)",
            {"pictures": np.zeros((2, 9, 9, 1), np.uint8)},
        ),
        (
            r"\(2 or more, side, side, 3\) uint8, not \(1, 9, 9, 3\)",
            {"pictures": np.zeros((1, 9, 9, 3), np.uint8)},
        ),
        ("uint8, not .* float32", {"pictures": np.zeros((2, 9, 9, 3), np.float32)}),
        (
            r"crops must be \(2, 3\) int32: top, left, mirror; not \(2, 3\) int64",
            {"crops": np.zeros((2, 3), np.int64)},
        ),
        (
            r"prepared pictures are \(n, 5, 5, 3\) float32, not \(2, 6, 6, 3\)",
            {"out": np.zeros((2, 6, 6, 3), np.float32)},
        ),
        ("float32, not .* float64", {"out": np.zeros((2, 5, 5, 3))}),
    ],
)
def test_what_cannot_be_prepared(words, change, mode, monkeypatch):
    monkeypatch.setenv("MINIGRAD_KERNELS", mode)
    given = {
        "out": np.zeros((2, 5, 5, 3), np.float32),
        "pictures": np.zeros((2, 9, 9, 3), np.uint8),
        "crops": np.zeros((2, 3), np.int32),
    }
    plain(5).prepare_into(**given, noise=None)
    with pytest.raises(ValueError, match=words):
        plain(5).prepare_into(**given | change, noise=None)


def test_the_systems_trouble_is_not_the_pictures(tree, tmp_path, monkeypatch):
    """Too many open files: no picture is remembered as broken for that."""

    def refuse(*args, **kwargs):
        raise OSError(24, "Too many open files")

    images = data.open_folder(tree)
    monkeypatch.setattr(Image, "open", refuse)
    said = []
    assert data.open_pictures(images, tmp_path / "cache", workers=0, say=said.append).cache is None
    assert "Too many open files" in said[-1]
    monkeypatch.undo()
    assert not data.open_pictures(images, tmp_path / "cache", say=quiet).broken


def test_a_long_list_of_classes(tree):
    with pytest.raises(data.DataError, match="has no class folder"):
        data.open_sets(tree, ",".join(f"n{i:08}" for i in range(40)))


def mnist_like(folder: Path, count: int = 40) -> Path:
    """IDX files of pictures of 28 x 28, whose class is where they are bright."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for part, n in (("train", count), ("t10k", 12)):
        labels = (np.arange(n) % 3).astype(np.uint8)
        pixels = rng.integers(0, 60, (n, 28, 28)).astype(np.uint8)
        for picture, label in zip(pixels, labels):
            picture[9 * label : 9 * label + 9] += 150
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (folder / f"{part}-{name}-ubyte").write_bytes(head + array.tobytes())
    return folder


def cifar_like(folder: Path, count: int = 40) -> Path:
    """CIFAR-10's binary batches, 32 x 32 in colour; the class is which channel is bright."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name, n in (("data_batch_1", count), ("test_batch", 12)):
        labels = (np.arange(n) % 3).astype(np.uint8)
        planes = rng.integers(0, 60, (n, 3, 1024)).astype(np.uint8)
        planes[np.arange(n), labels] += 150
        rows = np.concatenate([labels[:, None], planes.reshape(n, -1)], axis=1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder


@pytest.mark.parametrize(
    ("draw", "shape"),
    [(mnist_like, (28, 28, 1)), (cifar_like, (32, 32, 3))],
    ids=["mnist", "cifar"],
)
def test_pictures_of_their_own_size(tmp_path, draw, shape):
    """The files' own bytes, through cache and workers."""
    train, _ = data.open_sets(draw(tmp_path / "set"))
    direct = data.Pictures(train, shape=shape)
    cached = data.open_pictures(train, tmp_path / "cache", 1, quiet, shape=shape)
    stored = train.source.pixels.reshape(-1, *shape)
    for i, item in enumerate(train.items):
        np.testing.assert_array_equal(direct.read(i), stored[int(item)])
        np.testing.assert_array_equal(cached.read(i), stored[int(item)])
    stats = statistics(cached)
    assert stats.mean.shape == shape
    assert stats.eigenvectors.shape == (shape[2],) * 2
    p = Preprocessing(size=24, picture=shape[0], channels=shape[2], colour_noise=0.1, mirror=False)
    prep = Preparation.of(p, stats)
    batches = [
        [x for x, _, _ in data.Loader(direct, prep, 16, True, 3, workers).batches()]
        for workers in (0, 2)
    ]
    assert batches[0][0].shape == (16, 24, 24, shape[2])
    for a, b in zip(*batches, strict=True):
        np.testing.assert_array_equal(a, b)
    assert cached.cache.stat().st_size == len(train) * np.prod(shape)
    said = []
    data.open_pictures(train, tmp_path / "cache", 1, said.append, shape=shape)
    assert "decoded before" in said[0]


def test_no_mirrored_pictures_where_none_are_wanted(tmp_path):
    train, _ = data.open_sets(mnist_like(tmp_path / "set"))
    pictures = data.Pictures(train, shape=(28, 28, 1))
    p = Preprocessing(size=28, picture=28, channels=1, mirror=False)
    prep = Preparation.of(p, statistics(pictures))
    for x, _, i in data.Loader(pictures, prep, 8, True, workers=0).batches():
        expected = np.stack([pictures.read(int(k)) for k in i]) - prep.mean
        np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("draw", [mnist_like, cifar_like])
def test_small_pictures_train_evaluate_and_predict(tmp_path, draw, monkeypatch, capsys):
    """By the command line, at their own size: LeNet-5, and a model of three convolutions in
    colour."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    draw(tmp_path / "set", 60)
    lenet = LENET5.with_recipe(lr=0.05, batch_size=10)
    colour = lenet.with_preprocessing(size=32, picture=32, channels=3)
    monkeypatch.setitem(alexnet.MODELS, "small", lenet if draw is mnist_like else colour)

    def run(*args):
        code = alexnet.main([str(a) for a in args])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    run("train", "--data", "set", "--preset", "small", "--epochs", 2, "--output", "run")
    out = run("train", "--resume", "run", "--epochs", 4)
    assert "recipe 'preset'" in out
    assert "going on with run from epoch 2" in out
    out = run("evaluate", "run", "--views", "ten")
    assert "12 pictures" in out
    assert "top-1 100.00%" in out
    Image.new("RGB", (90, 90), (10, 10, 10)).save("dark.png")
    assert run("predict", "run", "dark.png").startswith("dark.png: ")
    what = "filters", "maps", "deconvnet", "nine", "occlusion", "neighbours"
    assert run("look", "run", "--picture", "dark.png", "--what", *what).count("written: ") > 12
    assert {"curves.png", "filters.png", "predictions.png"} <= {
        p.name for p in Path("run").iterdir()
    }
