"""Pictures of every kind, folders good and bad, the cache, and batches that do not depend on the
number of workers."""

import itertools
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import alexnet
from minigrad import data, random
from minigrad.data import cache as cache_module
from minigrad.data import loader as loader_module
from minigrad.data import synthetic
from minigrad.data.folder import ImageSet
from minigrad.data.images import FORMATS
from minigrad.data.preparation import Preparation, Statistics, statistics
from minigrad.data.workers import Batch, Workers
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
        ("LA", (90, 0), "a.png", (255, 255, 255)),
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


def test_grey_of_32_bits_is_scaled_to_its_largest_value(tmp_path):
    for dtype in (np.int32, np.float32):
        values = np.repeat(np.array([[131070, 65535]], dtype), 2, axis=0)
        Image.fromarray(values).save(tmp_path / "i.tiff")
        pixels = data.read_image(tmp_path / "i.tiff")
        assert (pixels[9, 0].tolist(), pixels[9, -1].tolist()) == ([255] * 3, [127] * 3)


@pytest.mark.parametrize(("values", "expected"), [([0, 0.2, 1], 51), ([0, 51, 255], 51)])
def test_grey_in_numbers_with_a_point_is_from_0_to_1_or_to_255(tmp_path, values, expected):
    array = np.repeat(np.array([values], np.float32), 3, axis=0)
    Image.fromarray(array).save(tmp_path / "f.tiff")
    assert data.read_image(tmp_path / "f.tiff", (3, 3, 1))[1, :, 0].tolist() == [0, expected, 255]


@pytest.mark.parametrize("bad", [np.nan, -1.0, np.inf, -np.inf])
def test_grey_that_is_no_brightness_is_refused(tmp_path, bad):
    Image.fromarray(np.array([[1, bad], [2, 3]], np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(
        data.ImageError, match="f.tiff: .*its grey values are negative or not finite"
    ):
        data.read_image(tmp_path / "f.tiff")


def test_pictures_without_pixels_are_refused():
    for shape in ((0, 4, 3), (4, 0, 3), (0, 0)):
        words = f"set: 7: a picture of shape .{shape[0]}, .* no pixels"
        with pytest.raises(data.ImageError, match=words):
            data.read_image(np.zeros(shape, np.uint8), path="set: 7")


def test_a_small_file_with_very_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    Image.new("L", (8000, 8000)).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size < 100_000
    with pytest.raises(data.ImageError, match="large.png: refused, .* .8000 x 8000"):
        data.read_image(tmp_path / "large.png")


def test_a_colour_picture_in_grey(tmp_path):
    """By luminance: 0.299 red, 0.587 green, 0.114 blue."""
    pixels = data.read_image(save(tmp_path / "a.png"), (28, 28, 1))
    assert pixels.shape == (28, 28, 1)
    assert np.unique(pixels).tolist() == [82]


def test_fine_patterns_keep_their_contrast_or_become_their_mean(tmp_path):
    """A JPEG may be decoded at a half of its size, but not below the size that is asked for; and
    what is too fine for that is averaged, not sampled."""
    columns = np.arange(600)[None].repeat(600, axis=0)
    Image.fromarray((columns // 6 % 2 * 255).astype(np.uint8)).save(tmp_path / "a.png")
    Image.open(tmp_path / "a.png").save(tmp_path / "a.jpg", quality=95)
    png, jpg = (data.read_image(tmp_path / name).astype(float) for name in ("a.png", "a.jpg"))
    assert png.std() > 100
    assert jpg.std() > 100
    Image.fromarray((columns % 2 * 255).astype(np.uint8)).save(tmp_path / "b.png")
    assert data.read_image(tmp_path / "b.png").std() < 30


def test_exif_rotation(tmp_path):
    image = Image.new("RGB", (64, 64), "black")
    image.paste((255, 255, 255), (0, 0, 64, 32))  # white on top
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show: white comes to the right
    image.save(tmp_path / "e.jpg", exif=exif)
    pixels = data.read_image(tmp_path / "e.jpg")
    assert pixels[128, 250, 0] > 200
    assert pixels[128, 5, 0] < 50


@pytest.mark.parametrize("turned", [False, True])
def test_shorter_side_and_centre(tmp_path, turned):
    """A wide or tall picture keeps its centre: the outer thirds, another colour, are gone."""
    image = Image.new("RGB", (900, 300), "white")
    image.paste(RED, (300, 0, 600, 300))
    if turned:
        image = image.transpose(Image.Transpose.ROTATE_90)
    image.save(tmp_path / "wide.png")
    pixels = data.read_image(tmp_path / "wide.png")
    inner = pixels[3:-3, 3:-3]  # at the cut, scaling mixes in a neighbour
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


def test_what_of_a_folder_counts(tree):
    """Pictures at any depth, in sorted order; nothing hidden, and nothing behind a link to a
    folder."""
    for name in ("deep/er/x.JPG", "00.png", ".hidden.png", ".ipynb_checkpoints/x.png"):
        save(tree / "a_class" / name)
    save(tree / ".hidden" / "x.png")
    (tree / "a_class" / "link").symlink_to(tree / "b_class")
    images = data.open_folder(tree)
    assert images.classes == ["a_class", "b_class"]
    names = ["0.png", "00.png", *(f"{i}.png" for i in range(1, 6)), "deep/er/x.JPG"]
    assert images.items[:8] == [f"a_class/{name}" for name in names]
    assert images.labels.tolist() == [0] * 8 + [1] * 6


@pytest.fixture
def parted(tmp_path):
    """train/ and val/ with classes a, b and c."""
    for part, count in (("train", 8), ("val", 2)):
        for c, i in itertools.product("abc", range(count)):
            save(tmp_path / "parted" / part / c / f"{i}.png", size=(4, 4))
    return tmp_path / "parted"


def test_what_is_asked_of_a_set_arrives(parted, tmp_path):
    train, val = data.open_sets(parted)
    assert (train.root.name, len(train), val.root.name, len(val)) == ("train", 24, "val", 6)
    (tmp_path / "names.txt").write_text("c\nb\n")
    for classes in ("c,b", "b,c,b", str(tmp_path / "names.txt")):
        train, val = data.open_sets(parted, classes, images_per_class=2)
        assert train.classes == val.classes == ["b", "c"]
        assert [item[0] for item in train.items] == ["b", "b", "c", "c"]
        assert train.labels.tolist() == val.labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(data.DataError, match="one class, b: training needs at least two"):
        data.open_sets(parted, "b")
    rest, held = data.open_sets(parted, holdout=0.25)
    assert (len(rest), len(held), held.root.name) == (18, 6, "train")

    def drawn(**options):
        """For each of four seeds; the first again."""
        sets = [data.open_sets(parted, seed=seed, **options) for seed in (1, 2, 3, 4, 1)]
        assert sets[0][0].items == sets[4][0].items
        return len({tuple(train.items) for train, _ in sets})

    assert drawn(images_per_class=2) == drawn(holdout=0.25) == 4


def test_a_set_to_evaluate_on(parted):
    images = data.open_validation(parted, ["c", "a"])
    assert (images.root.name, images.classes, len(images)) == ("val", ["c", "a"], 4)
    assert [item[0] for item in images.items] == ["c", "c", "a", "a"], "in a network's own order"
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert len(data.open_validation(parted / "train", ["a", "c"])) == 16, "it has one part only"


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
    images = data.open_folder(tree)
    few = [images.split(0.01, seed)[1] for seed in range(6)]
    assert [np.bincount(held.labels).tolist() for held in few] == [[1, 1]] * 6
    assert len({tuple(held.items) for held in few}) > 2
    some = images.take([7, 2, 11])
    assert (some.items, some.labels.tolist()) == ([images.items[i] for i in (7, 2, 11)], [1, 0, 1])


@pytest.mark.parametrize("file", ["words.txt", "LOC_synset_mapping.txt"])
def test_words(tree, file):
    (tree.parent / file).write_text("a_class\tgoldfish, Carassius auratus\n")
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


def test_the_key_of_a_cache_has_all_that_its_bytes_depend_on(tree, tmp_path, monkeypatch):
    images, shape = data.open_folder(tree), (256, 256, 3)

    def key(images=images, shape=shape):
        return cache_module.cache_key(images, shape)

    keys = [key(), key(shape=(256, 256, 1)), key(images.take(range(11))), key(images.take([1, 0]))]
    (tree / "a_class" / "0.png").rename(tree / "a_class" / "00.png")
    keys.append(key(data.open_folder(tree)))
    os.utime(tree / "b_class" / "5.png", ns=(1, 1))
    keys.append(key(data.open_folder(tree)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i, name in itertools.product(range(2), ("ant", "bee")):
            archive.write(tree / "b_class" / "1.png", f"{name}/{i}.png")
    for stamp in (1, 2):
        os.utime(tmp_path / "a.zip", ns=(stamp, stamp))
        keys.append(key(data.open_sets(tmp_path / "a.zip")[0]))
    again = key(data.open_folder(tree))
    assert again == keys[5]
    monkeypatch.setattr(cache_module.PIL, "__version__", "0.0")
    keys.append(key(data.open_folder(tree)))
    assert len(set(keys)) == len(keys) == 9


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


@pytest.mark.parametrize("where", ["first", "last", "end"])
def test_a_cache_that_was_changed_is_made_anew(tree, tmp_path, where):
    pictures = data.open_pictures(data.open_folder(tree), tmp_path / "cache", 0, quiet)
    with open(pictures.cache, "r+b") as file:
        file.seek({"first": 0, "last": -1000, "end": 0}[where], where != "first" and os.SEEK_END)
        file.write(bytes(1000))
    said = []
    again = data.open_pictures(data.open_folder(tree), tmp_path / "cache", 0, said.append)
    assert "decoding once" in said[0]
    for i in (0, 11):
        np.testing.assert_array_equal(again.read(i), data.Pictures(again.images).read(i))


def test_a_fifth_of_the_free_space_may_be_used(tree, tmp_path, monkeypatch):
    size = 12 * 256 * 256 * 3
    for free, fits in ((5 * size - 1, False), (5 * size, True)):
        monkeypatch.setattr(
            cache_module.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free)
        )
        pictures = data.open_pictures(data.open_folder(tree), tmp_path / "cache", 0, quiet)
        assert (pictures.cache is not None) == fits


@pytest.mark.parametrize("where", ["off", "too small", "not writable", "cache"])
def test_the_shape_arrives_whatever_the_cache(tree, tmp_path, monkeypatch, where):
    if where == "too small":
        monkeypatch.setattr(cache_module, "LARGEST_CACHE", 1)
    (tmp_path / "not writable").touch()
    folder = None if where == "off" else tmp_path / where
    images, shape = data.open_folder(tree), (20, 20, 1)
    pictures = data.open_pictures(images, folder, 0, quiet, shape=shape)
    assert (pictures.cache is not None) == (where == "cache")
    assert pictures.shape == pictures.read(3).shape == shape


def recorded_workers(monkeypatch, module):
    """The arguments of each Workers that the module makes; these read in this process."""
    made = []

    class Recorded(Workers):
        def __init__(self, source, size, count, say, timeout):
            made.append((size, count, say, timeout))
            super().__init__(source, size, 0, say, timeout)

    monkeypatch.setattr(module, "Workers", Recorded)
    return made


def test_the_workers_get_what_was_asked_for(tree, tmp_path, monkeypatch):
    made = recorded_workers(monkeypatch, cache_module)
    pictures = data.open_pictures(
        data.open_folder(tree), tmp_path / "cache", 3, quiet, worker_timeout=7.0
    )
    assert made == [(cache_module.BUILD_BATCH, 3, quiet, 7.0)]
    made = recorded_workers(monkeypatch, loader_module)
    loader = data.Loader(pictures, plain(), 5, True, workers=2, say=quiet, worker_timeout=8.0)
    next(loader.batches())
    assert made == [(5, 2, quiet, 8.0)]


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
    mean = np.mean([pictures.read(int(i)) for i in seen], axis=0)
    np.testing.assert_allclose(statistics(pictures).mean, mean, rtol=1e-6)
    found = data.open_pictures(images, pictures.cache and tmp_path / "cache", say=quiet)
    for i in set(range(len(images))) - set(seen.tolist()):
        with pytest.raises(data.ImageError):
            found.read(i)


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


class InMemory:
    """A source of pictures from an array; some of them are broken."""

    def __init__(self, pixels, broken=()):
        self.pixels, self.broken = pixels, broken

    def read(self, item):
        if int(item) in self.broken:
            raise data.ImageError(f"picture {item} is broken")
        return self.pixels[int(item)]

    def where(self, item):
        return f"picture {item}"


def in_memory(count=12, side=8, broken=()):
    """Random pictures of two classes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    items, labels = [str(i) for i in range(count)], rng.integers(0, 2, count)
    images = ImageSet(InMemory(pixels, broken), Path("x"), ["a", "b"], ["a", "b"], items, labels)
    return data.Pictures(images, shape=(side, side, 3))


@pytest.mark.parametrize(("seed", "epoch", "start"), [(0, 0, 0), (5, 0, 1), (5, 1, 0), (5, 2, 0)])
def test_training_batches_by_hand(seed, epoch, start):
    """The draws belong to seed, epoch and picture; colour noise ends with epoch 2; every offset
    from 0 to 2 occurs."""
    pictures, n = in_memory(50), 50
    colour = np.arange(9, dtype=np.float32).reshape(3, 3)
    prep = plain(6, colour=colour)
    loader = data.Loader(pictures, prep, 20, True, seed, workers=0, colour_until=2)
    batches = list(loader.batches(epoch, start))
    order = random.Stream(seed, f"shuffle {epoch}").permutation(n)
    rng = random.Stream(seed, f"augment {epoch}")
    corners, mirrors, noise = rng.integers(3, (n, 2)), rng.integers(2, n), rng.normal((n, 3))
    assert set(corners.ravel()) == {0, 1, 2}
    assert [len(t) for _, t, _ in batches] == [20, 20, 10][start:]
    assert np.concatenate([i for _, _, i in batches]).tolist() == order[20 * start :].tolist()
    for x, labels, numbers in batches:
        np.testing.assert_array_equal(labels, pictures.images.labels[numbers])
        for own, i in zip(x, numbers):
            top, left = corners[i]
            crop = pictures.images.source.pixels[i, top : top + 6, left : left + 6]
            expected = (crop[:, ::-1] if mirrors[i] else crop) + (epoch < 2) * (colour @ noise[i])
            np.testing.assert_allclose(own, expected, atol=1e-4)


def test_the_loader_counts_what_it_does(monkeypatch):
    loader = data.Loader(in_memory(), plain(8), 5, False, workers=0)
    monkeypatch.setattr(
        loader_module, "time", SimpleNamespace(perf_counter=itertools.count().__next__)
    )
    assert len(list(loader.batches())) == len(loader) == 3
    assert (loader.images, loader.waiting) == (12, 3), "each turn took a second"
    loader.reading = 0.0
    for seconds in (2.0, 3.0):
        loader.prepared(Batch(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2), {}, seconds), None)
    assert (loader.images, loader.reading) == (16, 5.0)


def test_the_share_that_may_be_unreadable_is_one_of_all_pictures():
    def seen(*broken):
        loader = data.Loader(in_memory(20, broken=broken), plain(8), 5, False, workers=0)
        return [i for _, _, numbers in loader.batches() for i in numbers], loader.skipped

    numbers, skipped = seen(3, 17)
    assert numbers == [i for i in range(20) if i not in (3, 17)]
    assert skipped == {f"picture {i}": f"picture {i} is broken" for i in (3, 17)}
    words = "3 of 20 pictures cannot be read, more than the share of 0.1 .*: picture 3 is broken; "
    with pytest.raises(data.DataError, match=words):
        seen(3, 17, 18)


@pytest.mark.parametrize("training", [False, True])
def test_the_parts_of_ranks_and_the_ten_views(training):
    """In training each rank has a part of each batch, and no ten views; otherwise every second
    batch."""
    parts = [
        data.Loader(in_memory(), plain(6), 4, training, workers=0, ten_views=True, part=(rank, 2))
        for rank in range(2)
    ]
    batches = [list(loader.batches()) for loader in parts]
    numbers = [[i.tolist() for _, _, i in own] for own in batches]
    if training:
        order = random.Stream(0, "shuffle 0").permutation(12).reshape(3, 2, 2)
        assert numbers == [order[:, rank].tolist() for rank in range(2)]
    else:
        assert numbers == [[[0, 1, 2, 3], [8, 9, 10, 11]], [[4, 5, 6, 7]]]
    for x, _, i in itertools.chain(*batches):
        assert len(x) == len(i) * (1 if training else 10)


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


def test_statistics_of_some_pictures(tree):
    pictures = data.Pictures(data.open_folder(tree))
    for seed in (1, 2):
        some = sorted(random.Stream(seed, "statistics").permutation(12)[:4])
        mean = np.mean([pictures.read(int(i)) for i in some], axis=0)
        np.testing.assert_allclose(statistics(pictures, 4, seed).mean, mean, rtol=1e-6)
    assert (statistics(pictures).eigenvectors.sum(axis=0) >= 0).all()


def turn(axis, angle):
    """A rotation, which is not its own transpose."""
    c, s = np.cos(angle), np.sin(angle)
    return np.insert(np.insert([[c, -s], [s, c]], axis, 0, axis=0), axis, np.eye(3)[axis], axis=1)


STATISTICS = Statistics(
    np.random.default_rng(0).uniform(0, 255, (9, 9, 3)).astype(np.float32),
    np.array([16, 9, 4], np.float32),
    (turn(0, 0.5) @ turn(1, 0.7) @ turn(2, 0.9)).astype(np.float32),
    50.0,
)
ALL_OF_IT = Preprocessing(
    size=5,
    picture=9,
    colour_noise=0.2,
    shrink=1.25,
    unit_std=True,
    mirror=False,
    random_crops=False,
)


def test_what_a_model_asks_for_is_prepared():
    prep = Preparation.of(ALL_OF_IT, STATISTICS)
    np.testing.assert_array_equal(prep.mean, STATISTICS.mean[2:7, 2:7])
    np.testing.assert_allclose(
        prep.colour, 0.2 * STATISTICS.eigenvectors @ np.diag([4.0, 3.0, 2.0]), rtol=1e-6
    )
    assert (prep.size, prep.shrink, prep.mirror) == (5, 1.25, False)
    assert prep.scale.tolist() == [float(np.float32(1 / 50))] * 3, "as a checkpoint keeps it"
    little = Preparation.of(Preprocessing(size=5, picture=9, mean="channel"), STATISTICS)
    assert (little.colour, little.shrink, little.mirror) == (None, 1.0, True)
    assert little.scale.tolist() == [1.0] * 3
    mean = STATISTICS.mean.mean(axis=(0, 1))
    np.testing.assert_allclose(little.mean, np.broadcast_to(mean, (5, 5, 3)), rtol=1e-6)


def test_a_model_may_fix_the_mean_and_the_scale():
    fixed = Preprocessing(size=5, picture=9, mean=(1.0, 2.0, 3.0), scale=(0.1, 0.2, 0.4))
    prep = Preparation.of(fixed, STATISTICS)
    assert prep.mean[4, 0].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(prep.scale, np.float32([0.1, 0.2, 0.4]))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3)).astype(np.uint8)
    expected = (pictures[:, 2:7, 2:7] - np.array([1.0, 2, 3])) * [0.1, 0.2, 0.4]
    np.testing.assert_allclose(prep.centre(pictures), expected, rtol=1e-6)
    one = Preparation.of(Preprocessing(size=5, picture=9, mean=(7.0,), scale=(0.5,)), STATISTICS)
    np.testing.assert_allclose(one.centre(pictures), (pictures[:, 2:7, 2:7] - 7.0) / 2, rtol=1e-6)
    for wrong in ({"mean": (1.0, 2.0)}, {"scale": (1.0, 1.0)}):
        with pytest.raises(ValueError, match="must be one number, or one for each channel"):
            Preprocessing(size=5, picture=9, **wrong)
    with pytest.raises(ValueError, match="mean must be 'pixel', 'channel' or numbers"):
        Preprocessing(size=5, picture=9, mean="none")
    with pytest.raises(ValueError, match="scale must be from 1e-09"):
        Preprocessing(size=5, picture=9, scale=(0.0,))


def test_a_checkpoint_keeps_the_preparation():
    prep = Preparation.of(ALL_OF_IT, STATISTICS)
    again = Preparation.from_arrays(prep.arrays(), ALL_OF_IT)
    for name in ("size", "shrink", "mirror", "random_crops"):
        assert getattr(again, name) == getattr(prep, name), name
    np.testing.assert_array_equal(again.scale, prep.scale)
    np.testing.assert_array_equal(again.mean, prep.mean)
    np.testing.assert_array_equal(again.colour, prep.colour.astype(np.float32))
    plain_one = Preparation.from_arrays(plain(5).arrays(), ALL_OF_IT)
    assert plain_one.colour is None


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_prepared_pictures_by_hand(mode, monkeypatch):
    """x = (mirror(crop(p)) - mean + colour a) * scale; with colour, divided by shrink."""
    monkeypatch.setenv("MINIGRAD_KERNELS", mode)
    rng, prep = np.random.default_rng(1), Preparation.of(ALL_OF_IT, STATISTICS)
    pictures = rng.integers(0, 256, (2, 9, 9, 3)).astype(np.uint8)
    noise = rng.standard_normal((2, 3)).astype(np.float32)
    crops = [pictures[0, 1:6, 3:8][:, ::-1], pictures[1, 4:9, 0:5]]
    draws = np.array([[1, 3, 1], [4, 0, 0]], np.int32)
    for a, shrink in ((noise, 1.25), (None, 1.0)):
        out = np.empty((2, 5, 5, 3), np.float32)
        prep.prepare_into(out, pictures, draws, a)
        for i in range(2):
            shift = 0 if a is None else prep.colour @ a[i]
            expected = (crops[i] - prep.mean + shift) / 50 / shrink
            np.testing.assert_allclose(out[i], expected, atol=1e-5)


def test_the_views_by_hand():
    pictures = np.random.default_rng(1).integers(0, 256, (2, 9, 9, 3)).astype(np.uint8)
    prep = plain(5)
    views = [view[1] for view in prep.views(pictures)]
    whole = pictures[1].astype(np.float32)
    corners = [whole[t : t + 5, e : e + 5] for t, e in ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))]
    assert len(views) == 10
    for k, corner in enumerate(corners):
        np.testing.assert_array_equal(views[2 * k], corner)
        np.testing.assert_array_equal(views[2 * k + 1], corner[:, ::-1])
    np.testing.assert_array_equal(prep.crop_of(pictures[1]), pictures[1, 2:7, 2:7])
    np.testing.assert_array_equal(prep.centre(pictures)[1], whole[2:7, 2:7])


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


def test_the_streams_and_files_of_a_synthetic_set(tmp_path, monkeypatch):
    """Each picture has a stream of its own, and another set takes the old one's place."""

    def draw(kind, rng):
        drawn.append((rng.seed, rng.name))
        if len(drawn) == breaks:
            raise KeyboardInterrupt
        return np.full((16, 16, 3), 20 * synthetic.CLASSES.index(kind), np.uint8)

    monkeypatch.setattr(synthetic, "draw_picture", draw)
    for train, val, seed, breaks in ((3, 1, 5, 7), (3, 1, 5, 0), (2, 1, 5, 0), (2, 1, 6, 0)):
        drawn: list = []
        try:
            synthetic.draw_set(tmp_path, train, val, seed, workers=1)
        except KeyboardInterrupt:
            assert breaks
            continue
        parts = [("train", i) for i in range(train)] + [("val", i) for i in range(val)]
        names = {f"synthetic {part} {c} {i}" for part, i in parts for c in synthetic.CLASSES}
        assert sorted(drawn) == sorted((seed, name) for name in names)
        files = {
            f"synthetic {p.parts[-3]} {p.parts[-2]} {int(p.stem)}": p
            for p in tmp_path.rglob("*.JPEG")
        }
        assert set(files) == names
        for name, path in files.items():
            grey = 20 * synthetic.CLASSES.index(name.split()[2])
            assert abs(int(data.read_image(path)[9, 9, 0]) - grey) < 3
    drawn = []
    synthetic.draw_set(tmp_path, train, val, seed)
    assert drawn == [], "it is there already"


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("crosses", (2 * 1.9 * 0.5 - 0.25) / 4),
        ("rings", np.pi * (0.95**2 - 0.55**2) / 4),
        ("triangles", 3 * np.sqrt(3) / 4 / 4),
        ("stars", np.pi * (0.42**2 + 0.42 * 0.55 + 0.55**2 / 3) / 4),
        ("checks", 0.5),
        ("dots", 0.09 * np.pi),
        ("stripes", 0.5),
        ("waves", 0.5),
    ],
)
def test_the_area_of_a_shape_or_texture(kind, share):
    v, u = np.mgrid[-1:1:500j, -1:1:500j]
    shape = synthetic.inside if kind in synthetic.SHAPES else synthetic.pattern
    assert abs(shape(kind, u, v).mean() - share) < 0.01


def test_the_directions_of_the_textures():
    v, u = np.mgrid[-1:1:41j, -1:1:41j] + 0.01

    def drawn(kind, u=u, v=v):
        return synthetic.pattern(kind, u, v)

    stripes = drawn("stripes")
    np.testing.assert_array_equal(stripes, np.broadcast_to(u[:1] % 1 < 0.5, u.shape))
    np.testing.assert_array_equal(drawn("waves", v=0 * v), stripes)
    assert not np.array_equal(drawn("waves"), stripes)
    np.testing.assert_array_equal(drawn("checks", u + 0.5), ~drawn("checks"))
    np.testing.assert_array_equal(drawn("checks", v=v + 0.5), ~drawn("checks"))
    np.testing.assert_array_equal(drawn("targets"), drawn("targets", v, -u))
    np.testing.assert_array_equal(drawn("targets", v=0 * v), abs(u) % 1 < 0.5)


def test_the_two_colours_of_a_synthetic_picture_differ():
    for seed in range(30):
        a, b = synthetic.two_colours(random.Stream(seed, "colours"))
        assert abs((a - b) @ (0.299, 0.587, 0.114)) > 90


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


def test_no_crops_at_random_where_none_are_wanted(tmp_path):
    train, _ = data.open_sets(mnist_like(tmp_path / "set"))
    pictures = data.Pictures(train, shape=(28, 28, 1))
    p = Preprocessing(size=23, picture=28, channels=1, mirror=False, random_crops=False)
    prep = Preparation.of(p, statistics(pictures))
    for x, _, i in data.Loader(pictures, prep, 8, True, workers=0).batches():
        expected = np.stack([pictures.read(int(k))[2:25, 2:25] for k in i]) - prep.mean
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
