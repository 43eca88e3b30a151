"""Archives read in place, ImageNet as downloaded, IDX and CIFAR-10 files: right pictures, right
labels; hostile ones refused."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minigrad import data
from minigrad.data import layouts
from minigrad.data.download import unpack
from minigrad.data.sources import DataError, Files, Pixels, Tar, Zip, read_cifar, read_idx

scipy_io = pytest.importorskip("scipy.io")


def png(*colour) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "PNG")
    return out.getvalue()


def make_tar(path, members, compression=""):
    """members: {name: bytes, or (type,) for a member without content}."""
    with tarfile.open(path, f"w:{compression}") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content[0], "/etc/passwd"
                tar.addfile(info)
    return path


def make_zip(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def colours(images):
    return [
        tuple(int(v) for v in data.Pictures(images).read(i)[128, 128]) for i in range(len(images))
    ]


MEMBERS = {
    f"{part}/{c}/{i}.png": png(50 * i, 9, b)
    for part, b in (("train", 200), ("val", 90))
    for c in ("cat", "ant")
    for i in range(3)
}


@pytest.mark.parametrize(
    "kind", ["tar", "zip", "deflated zip", "with an outer folder", "test for val"]
)
def test_archives_are_read_in_place(tmp_path, kind):
    members = MEMBERS
    if kind == "with an outer folder":
        members = {f"set/{n}": c for n, c in members.items()}
    if kind == "test for val":
        members = {n.replace("val/", "test/"): c for n, c in members.items()}
    path = (
        make_zip(
            tmp_path / "a.zip",
            members,
            zipfile.ZIP_DEFLATED if "deflated" in kind else zipfile.ZIP_STORED,
        )
        if "zip" in kind
        else make_tar(tmp_path / "a.tar", members | {"README": b"no picture"})
    )
    for cache in (
        None,
        tmp_path / "cache",
        tmp_path / "cache",
    ):  # without an index, making one, by the index
        train, val = data.open_sets(path, cache=cache)
        assert (train.classes, len(train), len(val)) == (["ant", "cat"], 6, 6)
        assert colours(train) == [(50 * i, 9, 200) for _ in range(2) for i in range(3)]
        assert colours(val) == [(50 * i, 9, 90) for _ in range(2) for i in range(3)]
        assert str(path) in train.where(0)
        assert "ant/0.png" in train.where(0)
    assert len(list((tmp_path / "cache").glob("*.index.json"))) == 1


def test_archives_through_workers_and_cache(tmp_path):
    train, _ = data.open_sets(make_zip(tmp_path / "a.zip", MEMBERS), cache=tmp_path)
    pickle.loads(pickle.dumps(train)).source.read(train.items[0])
    cached = data.open_pictures(train, tmp_path / "c", 2, lambda s: None)
    assert cached.cache is not None
    for i in range(len(train)):
        np.testing.assert_array_equal(cached.read(i), data.Pictures(train).read(i))


def test_a_changed_archive_gets_a_new_index(tmp_path):
    path = make_tar(tmp_path / "a.tar", MEMBERS)
    data.open_sets(path, cache=tmp_path)
    make_tar(path, {n: c for n, c in MEMBERS.items() if "2.png" not in n})
    os.utime(path, ns=(1, 1))
    assert len(data.open_sets(path, cache=tmp_path)[0]) == 4


@pytest.mark.parametrize("kind", ["file", "archive", "binary files"])
def test_a_stamp_tells_time_and_size(tmp_path, kind):
    path, first = tmp_path / "a.tar", tmp_path / "first.bin"
    first.write_bytes(b"1")

    def stamp(size, time):
        path.write_bytes(bytes(size))
        os.utime(path, ns=(time, time))
        if kind == "file":
            return Files(tmp_path).stamp("a.tar")
        return (Tar(path) if kind == "archive" else Pixels([first, path], "IDX")).stamp("0")

    stamps = [stamp(3, 1000), stamp(3, 1001), stamp(4, 1000)]
    assert len(set(stamps)) == 3
    assert stamp(3, 1000) == stamps[0]


def test_archives_of_one_time_and_size_have_their_own_index(tmp_path):
    for name, classes in (("a.tar", "xy"), ("b.tar", "vw")):
        members = {f"{c}/{i}.png": png(i, 2, 3) for c in classes for i in range(2)}
        os.utime(make_tar(tmp_path / name, members), ns=(1, 1))
    assert (tmp_path / "a.tar").stat().st_size == (tmp_path / "b.tar").stat().st_size
    for name, classes in (("a.tar", "xy"), ("b.tar", "vw")):
        assert data.open_sets(tmp_path / name, cache=tmp_path)[0].classes == list(classes)


def test_a_torn_index_is_made_anew(tmp_path):
    path = make_tar(tmp_path / "a.tar", MEMBERS)
    for text in ("", "[[1]]", '{"a": 1', "[3]", "[" * 100_000, "512"):
        data.open_sets(path, cache=tmp_path)
        index = next(tmp_path.glob("*.index.json"))
        whole = index.read_text()
        assert whole.count("512") == 1  # an offset
        index.write_text(whole.replace("512", "513") if text == "512" else text)
        assert len(data.open_sets(path, cache=tmp_path)[0]) == 6


HOSTILE = {
    "reaches outside": ("train/a/../../../x.png", b"x"),
    "has an absolute path": ("/train/a/x.png", b"x"),
    "is a link": ("train/a/x.png", (tarfile.SYMTYPE,)),
}


@pytest.mark.parametrize("damage", ["a header changed", "no end", "cut within a header"])
def test_a_damaged_header_is_not_the_end(tmp_path, damage):
    """tarfile stops at it without a word, and half of the pictures would be gone."""
    raw = bytearray(make_tar(tmp_path / "a.tar", MEMBERS).read_bytes())
    at = raw.index(b"train/cat/1.png")
    last = raw.rindex(b"val/ant/2.png")
    changed = {
        "a header changed": raw[: at + 3] + b"?" + raw[at + 4 :],
        "no end": raw[: last + 1024],
        "cut within a header": raw[: at + 200],
    }
    (tmp_path / "a.tar").write_bytes(changed[damage])
    with pytest.raises(DataError, match=r"a\.tar is damaged or cut off"):
        data.open_sets(tmp_path / "a.tar")


def test_a_damaged_tar_inside_a_tar(imagenet):
    path = imagenet / layouts.TRAIN_TAR
    raw = bytearray(path.read_bytes())
    at = raw.index(b"n00000001_1.JPEG")
    raw[at + 20] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"damaged or cut off in n00000001\.tar"):
        data.open_sets(imagenet)


def test_a_header_that_claims_a_terabyte(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(DataError):
        data.open_sets(tmp_path / "a.tar")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_members_of_every_compression(tmp_path, method):
    pixels = {f"train/{c}/{i}.png": os.urandom(3000) for c in "ab" for i in range(2)}
    path = make_zip(tmp_path / "a.zip", pixels, method)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"train/a/1.png") + 13
    raw[at + 20 : at + 900] = bytes(b ^ 0x55 for b in raw[at + 20 : at + 900])
    path.write_bytes(raw)
    archive = Zip(path)
    assert archive.read("train/a/1.png").startswith(b"damaged in the archive")
    assert archive.read("train/b/0.png") == pixels["train/b/0.png"]


def test_layouts_of_names(tmp_path):
    odd = {"t.jpg": b"x", "t.jpg/train/a/1.jpg": b"x"}
    with pytest.raises(DataError):
        data.open_sets(make_zip(tmp_path / "odd.zip", odd))
    pets = {f"pets/{c}/{i}.png": png(i, 1, 1) for c in ("cat", "dog") for i in range(12)} | {
        "cover.jpg": b"x"
    }
    train, val = data.open_sets(make_zip(tmp_path / "pets.zip", pets))
    assert (train.classes, len(train), len(val)) == (["cat", "dog"], 22, 2)
    dotted = make_tar(tmp_path / "d.tar", {f"./{n}": c for n, c in MEMBERS.items()})
    assert len(data.open_sets(dotted)[0]) == 6
    mac = make_zip(tmp_path / "mac.zip", MEMBERS | {"__MACOSX/train/ant/._0.png": b"x"})
    assert len(data.open_sets(mac)[0]) == 6


def test_what_of_an_archive_counts(tmp_path):
    """No hidden file; the rest of a class in sorted order, whatever the order in the archive."""
    hidden = dict.fromkeys(("train/ant/._0.png", "train/ant/.x/0.png", "train/.y/0.png"), b"x")
    members = dict(reversed(MEMBERS.items())) | hidden
    for path in (make_zip(tmp_path / "a.zip", members), make_tar(tmp_path / "a.tar", members)):
        train, val = data.open_sets(path)
        assert train.items == [f"train/{c}/{i}.png" for c in ("ant", "cat") for i in range(3)]
        assert val.items == [f"val/{c}/{i}.png" for c in ("ant", "cat") for i in range(3)]


def test_an_outer_folder_around_train_alone(tmp_path):
    members = {f"set/{n}": content for n, content in MEMBERS.items() if n.startswith("train/")}
    train, val = data.open_sets(make_zip(tmp_path / "a.zip", members))
    assert train.classes == val.classes == ["ant", "cat"]
    assert (len(train), len(val)) == (4, 2)


def test_val_goes_before_test(tmp_path):
    members = MEMBERS | {f"test/{c}/0.png": png(1, 1, 1) for c in ("ant", "cat")}
    assert colours(data.open_sets(make_tar(tmp_path / "a.tar", members))[1])[0] == (0, 9, 90)


def test_a_name_that_is_no_utf8(tmp_path):
    for c in "ab":
        for i in range(3):
            folder = tmp_path / "set" / c
            folder.mkdir(parents=True, exist_ok=True)
            (folder / os.fsdecode(b"caf\xe9%d.png" % i)).write_bytes(png(i, 2, 3))
    images = data.open_sets(tmp_path / "set", holdout=0.4)[0]
    pictures = data.open_pictures(images, tmp_path / "cache", 1, lambda s: None)
    assert pictures.cache is not None
    assert tuple(pictures.read(1)[9, 9, 1:]) == (2, 3)
    pictures.where(0).encode()


@pytest.mark.parametrize("file", ["meta.mat", "tar.gz"])
def test_a_damaged_devkit(imagenet, file):
    """In a .tar.gz, what is not refused is read as it was; a .mat by itself has no checksum."""
    path = imagenet / f"{layouts.DEVKIT}.tar.gz"
    if file == "meta.mat":
        meta(imagenet / "meta.mat", WNIDS)
        path = imagenet / "meta.mat"
    good, right, refused = path.read_bytes(), data.open_sets(imagenet), 0
    for at in range(0, len(good), max(1, len(good) // 60)):
        raw = bytearray(good)
        raw[at] ^= 0x15
        path.write_bytes(raw)
        try:
            sets = data.open_sets(imagenet)
        except DataError:
            refused += 1
            continue
        for now, before in zip(sets, right) if file == "tar.gz" else ():
            assert (now.classes, now.names, now.items) == (
                before.classes,
                before.names,
                before.items,
            )
            np.testing.assert_array_equal(now.labels, before.labels)
    assert refused > (40 if file == "tar.gz" else 10)


@pytest.mark.parametrize("name", ["meta.mat", layouts.TRUTH])
def test_a_devkit_that_is_cut_off(imagenet, name):
    path = imagenet / f"{layouts.DEVKIT}.tar.gz"
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(DataError, match=r"devkit_t12\.tar\.gz is damaged or cut off"):
        layouts.devkit_file(imagenet, name)


@pytest.mark.parametrize(("words", "member"), HOSTILE.items())
def test_hostile_members_are_refused_by_name(tmp_path, words, member):
    name, content = member
    with pytest.raises(DataError, match=words) as error:
        data.open_sets(make_tar(tmp_path / "a.tar", MEMBERS | {name: content}))
    assert name in str(error.value)
    if isinstance(content, bytes):
        with pytest.raises(DataError, match=words):
            data.open_sets(make_zip(tmp_path / "a.zip", MEMBERS | {name: content}))


def test_other_hostile_members(tmp_path):
    for kind in (tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        with pytest.raises(DataError, match="is a link"):
            data.open_sets(make_tar(tmp_path / "a.tar", {"train/a/x.png": (kind,)}))
    with pytest.raises(DataError, match="would grow"):
        data.open_sets(
            make_zip(tmp_path / "a.zip", {"train/a/x.png": bytes(20 << 20)}, zipfile.ZIP_DEFLATED)
        )
    info = zipfile.ZipInfo("train/a/x.png")
    info.external_attr = 0xA1FF << 16
    make_zip(tmp_path / "l.zip", {})
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        data.open_sets(tmp_path / "l.zip")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train/a/..\\..\\x.png", "reaches outside"),
        ("C:\\x.png", "has an absolute path"),
        ("\\x.png", "has an absolute path"),
    ],
)
def test_members_that_would_reach_outside_on_windows(tmp_path, name, words):
    for path in (
        make_tar(tmp_path / "a.tar", MEMBERS | {name: b"x"}),
        make_zip(tmp_path / "a.zip", MEMBERS | {name: b"x"}),
    ):
        with pytest.raises(DataError, match=words):
            data.open_sets(path)


def test_a_sparse_member_and_two_of_one_name_are_refused(tmp_path):
    members = MEMBERS | {"train/ant/x.png": (tarfile.GNUTYPE_SPARSE,)}
    with pytest.raises(DataError, match=r"train/ant/x\.png' is stored sparsely"):
        data.open_sets(make_tar(tmp_path / "a.tar", members))
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for content in (b"one", b"another"):
            info = tarfile.TarInfo("train/ant/x.png")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match=r"holds two members called 'train/ant/x\.png'"):
        data.open_sets(tmp_path / "b.tar")


def test_absurd_sizes_are_refused(tmp_path):
    info = tarfile.TarInfo("train/a/x.png")
    info.size = 1 << 40
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match=r"x\.png' claims 1,099,511,627,776 bytes"):
        data.open_sets(tmp_path / "a.tar")


def test_a_tar_that_is_cut_off(tmp_path):
    whole = make_tar(
        tmp_path / "a.tar", {f"train/{c}/{i}.png": os.urandom(5000) for c in "ab" for i in range(4)}
    ).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:19000])
    with pytest.raises(DataError, match="cut off"):
        data.open_sets(tmp_path / "cut.tar")


def raw_member(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    """A header of 512 bytes and its content, written by hand: tarfile writes no hostile ones."""
    head = bytearray(512)
    for at, field in (
        (0, b"strange"),
        (100, b"0000644"),
        (124, b"%011o" % (len(content) if size is None else size)),
        (136, b"0" * 11),
    ):
        head[at : at + len(field)] = field
    head[156:157], head[257:265], head[148:156] = kind, b"ustar\x0000", b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + content + b"\0" * (-len(content) % 512)


QUADRATIC = b"1 a=" + b"1" * (
    1 << 18
)  # 256 KB: 90 seconds in a Python without the mend of CVE-2024-6232
LARGE_HEADERS = {
    "pax": raw_member(b"x", QUADRATIC),
    "global pax": raw_member(b"g", QUADRATIC),
    "many global pax": b"".join(raw_member(b"g", b"10 k%03d=v\n" % i * 500) for i in range(4)),
    "Solaris pax": raw_member(b"X", QUADRATIC),
    "long name": raw_member(b"L", b"n" * (1 << 18)),
    "long link": raw_member(b"K", b"n" * (1 << 18)),
    "a claimed size": raw_member(b"x", b"", 1 << 32),
}
READERS = ("archive", "a tar in it", "devkit", "download")


@pytest.mark.parametrize("kind", LARGE_HEADERS)
@pytest.mark.parametrize("reader", READERS)
def test_large_extended_headers_are_refused_before_they_are_parsed(
    tmp_path, kind, reader, monkeypatch
):
    def parsed(*_):
        raise AssertionError("tarfile was given the header")

    if kind != "many global pax":
        monkeypatch.setattr(tarfile.TarInfo, "_proc_pax", parsed)
        monkeypatch.setattr(tarfile.TarInfo, "_proc_gnulong", parsed)
    content = LARGE_HEADERS[kind] + raw_member(b"0", b"") + bytes(1024)
    path = tmp_path / (
        "a.tar" if "tar" in reader or reader == "archive" else f"{layouts.DEVKIT}.tar.gz"
    )
    if reader == "a tar in it":
        make_tar(path, {"cat.tar": content})
    else:
        path.write_bytes(content if reader == "archive" else gzip.compress(content))
    action = {
        "archive": lambda: data.open_sets(path),
        "a tar in it": lambda: data.open_sets(path),
        "devkit": lambda: layouts.devkit_file(tmp_path, "meta.mat"),
        "download": lambda: unpack(path, tmp_path, "x"),
    }[reader]
    with pytest.raises(
        DataError,
        match=r"refused, a (pax|GNU long (name|link)) header of .* bytes .*at most 16,384",
    ) as caught:
        action()
    assert str(path) in str(caught.value)


def test_ordinary_extended_headers_are_read(tmp_path):
    """A long name in each of the two formats that have one."""
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        name = f"cat/{'n' * 300}.png"
        with tarfile.open(tmp_path / f"{kind}.tar", "w", format=kind) as tar:
            info = tarfile.TarInfo(name)
            info.size = len(png(1, 2, 3))
            tar.addfile(info, io.BytesIO(png(1, 2, 3)))
        assert list(Tar(tmp_path / f"{kind}.tar").members) == [name]


def test_a_damaged_member_is_skipped_like_a_damaged_file(tmp_path):
    path = make_zip(tmp_path / "a.zip", MEMBERS)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"train/ant/1.png") + 30
    raw[at : at + 20] = bytes(20)
    path.write_bytes(raw)
    pictures = data.Pictures(data.open_sets(path)[0])
    with pytest.raises(data.ImageError, match=r"train/ant/1\.png"):
        pictures.read(1)
    pictures.read(0)


def test_a_zip_is_opened_by_each_process(tmp_path, monkeypatch):
    """Processes that inherit an open file share its position."""
    archive = Zip(make_zip(tmp_path / "a.zip", MEMBERS))
    ours = archive.opened()
    assert archive.opened() is ours
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert archive.opened() is not ours


def test_a_zip_that_has_gone_is_no_damaged_picture(tmp_path):
    archive = Zip(make_zip(tmp_path / "a.zip", MEMBERS))
    assert archive.members
    archive = pickle.loads(pickle.dumps(archive))
    (tmp_path / "a.zip").unlink()
    with pytest.raises(FileNotFoundError):
        archive.read("train/ant/1.png")


def meta(path, wnids, parents=("n99999999",)):
    """A devkit's meta.mat: numbered in another order than the sorted wnids, and some inner nodes at
    the end."""
    kinds = [
        ("ILSVRC2012_ID", object),
        ("WNID", object),
        ("words", object),
        ("gloss", object),
        ("num_children", object),
    ]
    rows = [(i + 1, w, f"words of {w}", "", 0) for i, w in enumerate(wnids)] + [
        (len(wnids) + 1 + i, w, "above", "", 2) for i, w in enumerate(parents)
    ]
    scipy_io.savemat(path, {"synsets": np.array(rows, kinds)})


WNIDS = ["n00000003", "n00000001", "n00000002"]


@pytest.fixture
def imagenet(tmp_path):
    """The official files in small. The devkit numbers n03, n01, n02 as 1, 2, 3."""
    inner = {}
    for k, wnid in enumerate(WNIDS, start=1):
        inner[f"{wnid}.tar"] = make_tar(
            tmp_path / "inner.tar", {f"{wnid}_{i}.JPEG": png(10 * k, i, 0) for i in range(2)}
        ).read_bytes()
    (tmp_path / "inner.tar").unlink()
    make_tar(tmp_path / layouts.TRAIN_TAR, inner)
    truth = [2, 3, 1, 1, 2]
    make_tar(
        tmp_path / layouts.VAL_TAR,
        {
            f"ILSVRC2012_val_{i:08}.JPEG": png(10 * k, 99, i)
            for i, k in reversed([*enumerate(truth, 1)])
        },
    )
    meta(tmp_path / "meta.mat", WNIDS)
    prefix = f"{layouts.DEVKIT}/data"
    make_tar(
        tmp_path / f"{layouts.DEVKIT}.tar.gz",
        {
            f"{prefix}/meta.mat": (tmp_path / "meta.mat").read_bytes(),
            f"{prefix}/{layouts.TRUTH}": "\n".join(map(str, truth)).encode(),
        },
        "gz",
    )
    (tmp_path / "meta.mat").unlink()
    return tmp_path


@pytest.mark.parametrize("cache", [False, True])
def test_imagenet_as_downloaded(imagenet, cache):
    """Class index is the place of the wnid in sorted order, not the devkit's number."""
    for _ in range(1 + cache):
        train, val = data.open_sets(imagenet, cache=imagenet / "cache" if cache else None)
        assert train.classes == val.classes == ["n00000001", "n00000002", "n00000003"]
        assert train.names == val.names == [f"words of n0000000{i}" for i in (1, 2, 3)]
        assert colours(train) == [
            (20, 0, 0),
            (20, 1, 0),
            (30, 0, 0),
            (30, 1, 0),
            (10, 0, 0),
            (10, 1, 0),
        ]
        # Validation pictures 1 .. 5 have the devkit's classes 2, 3, 1, 1, 2.
        assert colours(val) == [(20, 99, 1), (20, 99, 5), (30, 99, 2), (10, 99, 3), (10, 99, 4)]
        np.testing.assert_array_equal(val.labels, [0, 0, 1, 2, 2])
    some, some_val = data.open_sets(imagenet, classes="2", images_per_class=1)
    assert (len(some), len(some_val)) == (2, 3)


def test_imagenet_that_is_not_whole(imagenet):
    make_tar(imagenet / layouts.VAL_TAR, {"ILSVRC2012_val_00000001.JPEG": png(1, 2, 3)})
    with pytest.raises(DataError, match="holds 1 pictures, but .* has 5 lines"):
        data.open_sets(imagenet)
    (imagenet / f"{layouts.DEVKIT}.tar.gz").unlink()
    with pytest.raises(DataError, match=r"lacks meta\.mat: put ILSVRC2012_devkit_t12\.tar\.gz"):
        data.open_sets(imagenet)
    (imagenet / "meta.mat").write_bytes(b"no such thing")
    with pytest.raises(DataError, match="is not the devkit's list"):
        data.open_sets(imagenet)


@pytest.mark.parametrize(
    ("wnids", "truth", "words"),
    [
        (WNIDS[:2], "2 3 1 1 2", r"holds n00000002\.tar, a class that the devkit does not know"),
        (WNIDS, "2 3 x 1 2", "is not a list of class numbers"),
        (WNIDS, "2 3 9 1 2", "names class 9, which the devkit's list"),
        (WNIDS, "2 3 4 1 2", "names class 4, which the devkit's list"),  # an inner node
        (WNIDS, "2 3 1 1", "holds 5 pictures, but .* has 4 lines"),
    ],
)
def test_a_devkit_that_does_not_fit(imagenet, wnids, truth, words):
    meta(imagenet / "meta.mat", wnids)
    (imagenet / layouts.TRUTH).write_text(truth)
    with pytest.raises(DataError, match=words):
        data.open_sets(imagenet)


@pytest.mark.parametrize("place", ["", "data", f"{layouts.DEVKIT}/data"])
def test_a_devkit_that_was_unpacked(imagenet, place):
    """It goes before the archive."""
    (imagenet / place).mkdir(parents=True, exist_ok=True)
    meta(imagenet / place / "meta.mat", WNIDS)
    (imagenet / place / layouts.TRUTH).write_text("1 1 1 2 3")
    np.testing.assert_array_equal(data.open_sets(imagenet)[1].labels, [0, 1, 2, 2, 2])


def idx(array) -> bytes:
    return (
        b"\0\0\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.astype(np.uint8).tobytes()
    )


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_mnist_files(tmp_path, gz):
    for name, labels in (("train", [1, 0, 1, 3]), ("t10k", [3, 1, 0])):
        pixels = np.stack([np.full((28, 28), 20 * i + 5) for i in range(len(labels))])
        for what, array in (("images-idx3", pixels), ("labels-idx1", np.array(labels))):
            raw = idx(array)
            (tmp_path / f"{name}-{what}-ubyte{gz}").write_bytes(gzip.compress(raw) if gz else raw)
    train, val = data.open_sets(tmp_path)
    assert train.classes == ["0", "1", "3"]
    assert colours(train) == [(25,) * 3, (5,) * 3, (45,) * 3, (65,) * 3]
    np.testing.assert_array_equal(train.labels, [0, 1, 1, 2])
    assert colours(val) == [(45,) * 3, (25,) * 3, (5,) * 3]
    pictures = data.open_pictures(train, tmp_path / "cache", 1, lambda s: None)
    assert tuple(pictures.read(0)[3, 3]) == (25,) * 3


def test_cifar_files(tmp_path):
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (20, 3072)).astype(np.uint8), np.arange(20) % 10
    rows = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
    (tmp_path / "data_batch_1.bin").write_bytes(rows[:10].tobytes())
    (tmp_path / "data_batch_2.bin").write_bytes(rows[10:].tobytes())
    (tmp_path / "test_batch.bin").write_bytes(rows[:10].tobytes())
    (tmp_path / "batches.meta.txt").write_text(
        "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n"
    )
    train, val = data.open_sets(tmp_path)
    assert (len(train), len(val), train.classes[3]) == (20, 10, "cat")
    np.testing.assert_array_equal(train.labels, np.repeat(np.arange(10), 2))
    np.testing.assert_array_equal(val.labels, np.arange(10))
    raw = train.source.read(
        train.items[1]
    )  # the second airplane: row 10; planes of red, green, blue, row by row
    assert raw.shape == (32, 32, 3)
    assert raw[2, 5].tolist() == [int(pixels[10, plane * 1024 + 2 * 32 + 5]) for plane in range(3)]


def test_cifar_as_its_archive_unpacks_and_a_list_of_other_names(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(b"".join(bytes([k % 2]) * 3073 for k in range(4)))
    train, held = data.open_sets(tmp_path)
    assert (train.classes, len(train), len(held)) == (["0", "1"], 2, 2)
    (folder / "batches.meta.txt").write_text("cat dog")
    with pytest.raises(DataError, match="names 2 classes; CIFAR-10 has 10"):
        data.open_sets(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train-images-idx3-ubyte", b"\x89PNG", "is no IDX file"),
        ("train-images-idx3-ubyte", b"\0\0\x0c\x01\0\0\0\1" + bytes(4), "is no IDX file"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x04" + bytes(16), "is no IDX file"),
        ("train-images-idx3-ubyte", idx(np.zeros((5, 2, 2))), "do not belong together"),
        ("train-images-idx3-ubyte", idx(np.zeros((4, 2))), "do not belong together"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03\0\0\0\1", "cut off within its sizes"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12, "refused"),
        ("train-images-idx3-ubyte", idx(np.zeros((4, 2, 2)))[:-1], "fewer bytes"),
        ("train-images-idx3-ubyte", idx(np.zeros((4, 2, 2))) + b"x", "more bytes"),
        ("train-images-idx3-ubyte", idx(np.zeros((4, 2, 2))), "not train-labels"),
        ("data_batch_1.bin", b"123", "no whole CIFAR-10 batch"),
        ("data_batch_1.bin", b"", "no whole CIFAR-10 batch: 0 bytes"),
        ("data_batch_1.bin", b"\x0a" + bytes(3072), "label 10"),
        ("a.zip", b"PK\3\4 and then nothing", "damaged, cut off or no archive"),
        ("a.tar", b"not a tar" * 200, "damaged, cut off or no archive"),
        ("a.rar", b"Rar!", "neither a folder nor"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_gets_a_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    if words != "not train-labels":
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(4)))
    with pytest.raises(DataError, match=words):
        data.open_sets(tmp_path / name if name.startswith("a.") else tmp_path)


def fuzzed(raw: bytes):
    """Raw bytes with some replaced, or cut off."""
    edits = st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=12)
    return st.tuples(edits, st.integers(0, len(raw))).map(lambda e: apply(raw, *e))


def apply(raw: bytes, edits, length) -> bytes:
    changed = bytearray(raw)
    for at, value in edits:
        changed[at] = value
    return bytes(changed[: length or len(changed)])


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archive_readers_bear_any_bytes(kind, tmp_path_factory):
    """Either an archive is read, or a DataError says what is wrong: never another error."""
    folder = tmp_path_factory.mktemp("fuzz")
    members = {f"train/{c}/{i}.png": png(i, 0, 0)[:60] for c in "ab" for i in range(2)}
    good = (make_tar if kind == "tar" else make_zip)(folder / "good", members).read_bytes()

    @settings(max_examples=300)
    @given(st.one_of(fuzzed(good), st.binary(max_size=600)))
    def check(raw):
        path = folder / f"x.{kind}"
        path.write_bytes(raw)
        archive = (Tar if kind == "tar" else Zip)(path)
        try:
            names = list(archive.members)
        except DataError:
            return
        for name in names:
            assert isinstance(archive.read(name), bytes)

    check()


def test_idx_and_cifar_readers_bear_any_bytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    good = idx(np.arange(24).reshape(2, 3, 4))

    @settings(max_examples=300)
    @given(
        st.one_of(fuzzed(good), fuzzed(gzip.compress(good, mtime=0)), st.binary(max_size=100)),
        st.sampled_from(["", ".gz"]),
    )
    def check(raw, gz):
        path = folder / f"x{gz}"
        path.write_bytes(raw)
        for reader in (read_idx, read_cifar):
            try:
                reader(path)
            except DataError:
                continue

    check()
