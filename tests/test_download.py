"""Data sets by name, from a server on this machine: whole, broken off, wrong, hostile, absent."""

import contextlib
import hashlib
import http.server
import io
import itertools
import os
import tarfile
import threading
import time

import pytest
from PIL import Image

from minigrad import data
from minigrad.data import download
from minigrad.data.download import Download
from minigrad.data.sources import DataError


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files`, with ranges if `ranges`; the first `breaks` answers end halfway."""

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        if self.path[1:] not in server.files:
            self.send_error(server.refusal)
            return
        content, start = server.files[self.path[1:]], 0
        wanted = self.headers.get("Range")
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
        rest = content[start:]
        self.send_response(206 if start else 200)
        if server.length is not None:
            self.send_header("Content-Length", server.length or str(len(rest)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for piece in server.instead:
                self.wfile.write(piece)
                self.wfile.flush()
        if server.breaks > 0:
            server.breaks -= 1
            rest = rest[: len(rest) // 2]
        with contextlib.suppress(ConnectionError):
            self.wfile.write(rest)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as s:
        s.files, s.asked, s.ranges, s.breaks, s.refusal = {}, [], True, 0, 404
        # The Content-Length ("" the right one, None none), and what is sent before the file.
        s.length, s.instead = "", []
        threading.Thread(target=s.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(download, "PAUSE", 0.0)
        s.address = f"http://127.0.0.1:{s.server_address[1]}/"
        yield s
        s.shutdown()


def tgz(members) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(out, "PNG")
    return out.getvalue()


GOOD = {f"small/{part}/{c}/0.png": picture() for part in ("train", "val") for c in ("ant", "bee")}


@pytest.fixture
def offer(server, monkeypatch):
    """offer(content, md5): the set 'small' of one archive, on the server."""

    def offered(content, md5=None):
        server.files["small.tgz"] = content
        entry = Download(
            server.address, {"small.tgz": md5 or hashlib.md5(content).hexdigest()}, "small"
        )
        monkeypatch.setitem(download.NAMES, "small", entry)

    return offered


def test_by_name_once(server, offer, tmp_path):
    offer(tgz(GOOD))
    train, val = data.open_sets("small", cache=tmp_path)
    assert (train.classes, len(train), len(val)) == (["ant", "bee"], 2, 2)
    data.Pictures(train).read(0)
    data.open_sets("small", cache=tmp_path)
    assert server.asked == [("/small.tgz", None)]
    names = {p.name for p in (tmp_path / "downloads" / "small").iterdir()}
    assert names == {"small", "complete"}, "the archive is not needed any more"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_breaks_off_goes_on(server, offer, tmp_path, ranges):
    offer(tgz(GOOD))
    server.ranges, server.breaks = ranges, 2
    assert len(data.open_sets("small", cache=tmp_path)[0]) == 2
    assert len(server.asked) == 3
    half = len(server.files["small.tgz"]) // 2
    assert server.asked[1][1] == f"bytes={half}-"


def test_what_was_loaded_is_kept_for_the_next_run(server, offer, tmp_path, monkeypatch):
    offer(tgz(GOOD))
    server.breaks = 100
    monkeypatch.setattr(download, "TRIES", 2)
    with pytest.raises(
        DataError,
        match=r"bytes are kept, and the next run goes on from there.*put small\.tgz \(MD5",
    ):
        data.open_sets("small", cache=tmp_path)
    server.breaks = 0
    assert len(data.open_sets("small", cache=tmp_path)[0]) == 2
    assert server.asked[-1][1] is not None


def test_a_whole_part_file_of_a_killed_run(server, offer, tmp_path):
    offer(tgz(GOOD))
    folder = tmp_path / "downloads" / "small"
    folder.mkdir(parents=True)
    (folder / "small.tgz.part").write_bytes(server.files["small.tgz"])
    assert len(data.open_sets("small", cache=tmp_path)[0]) == 2


def test_a_wrong_checksum_is_thrown_away(server, offer, tmp_path):
    offer(tgz(GOOD), "0" * 32)
    with pytest.raises(DataError, match="not 0000"):
        data.open_sets("small", cache=tmp_path)
    assert [p.name for p in (tmp_path / "downloads" / "small").iterdir()] == []


def test_a_file_put_there_by_hand(server, offer, tmp_path):
    offer(tgz(GOOD))
    folder = tmp_path / "downloads" / "small"
    folder.mkdir(parents=True)
    (folder / "small.tgz").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"small\.tgz has not the checksum"):
        data.open_sets("small", cache=tmp_path)
    (folder / "small.tgz").write_bytes(server.files["small.tgz"])
    assert len(data.open_sets("small", cache=tmp_path)[0]) == 2
    assert server.asked == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("small/../../evil.png", b"x", "reaches outside"),
        ("/tmp/evil.png", b"x", "reaches outside"),
        ("\\evil.png", b"x", "reaches outside"),
        ("small/..\\..\\evil.png", b"x", "reaches outside"),
        ("small/train/link.png", "/etc/passwd", "is no plain file"),
    ],
)
def test_hostile_members(offer, tmp_path, name, content, words):
    offer(tgz(GOOD | {name: content}))
    with pytest.raises(DataError, match=words) as error:
        data.open_sets("small", cache=tmp_path)
    assert repr(name) in str(error.value)
    assert {p.name for p in (tmp_path / "downloads" / "small").iterdir()} == {"small.tgz"}


def test_a_set_that_unpacks_to_an_absurd_size(offer, tmp_path, monkeypatch):
    size = sum(map(len, GOOD.values()))
    offer(tgz(GOOD))
    monkeypatch.setattr(download, "LARGEST_UNPACKED", size - 1)
    with pytest.raises(
        DataError, match=r"its member 'small/val/bee/0\.png' makes it absurdly large"
    ):
        data.open_sets("small", cache=tmp_path)
    monkeypatch.setattr(download, "LARGEST_UNPACKED", size)
    assert len(data.open_sets("small", cache=tmp_path)[0]) == 2


def test_unfinished_folders_of_others_stay_until_they_are_old(offer, tmp_path):
    offer(tgz(GOOD))
    folder = tmp_path / "downloads" / "small"
    for name, age in ((".minigrad-fresh", 60), (".minigrad-old", 10 * 24 * 3600)):
        (folder / name).mkdir(parents=True)
        os.utime(folder / name, (time.time() - age,) * 2)
    data.open_sets("small", cache=tmp_path)
    names = {p.name for p in folder.iterdir()}
    assert names == {"small", "complete", ".minigrad-fresh"}


@pytest.mark.parametrize(
    ("refusal", "times"), [(401, 1), (403, 1), (404, 1), (410, 1), (429, 3), (500, 3)]
)
def test_what_is_refused_for_good_is_not_asked_for_again(
    server, offer, tmp_path, monkeypatch, refusal, times
):
    offer(tgz(GOOD))
    server.files.clear()
    server.refusal = refusal
    monkeypatch.setattr(download, "TRIES", 3)
    with pytest.raises(DataError, match=f"could not download .*{refusal}"):
        data.open_sets("small", cache=tmp_path)
    assert len(server.asked) == times


def test_damage_inside_and_a_missing_folder(offer, tmp_path):
    offer(tgz(GOOD)[:-40])
    with pytest.raises(DataError, match="damaged or cut off"):
        data.open_sets("small", cache=tmp_path)
    offer(tgz({"other/train/ant/0.png": picture()}))
    (tmp_path / "downloads" / "small" / "small.tgz").unlink()
    with pytest.raises(DataError, match="holds no folder small"):
        data.open_sets("small", cache=tmp_path)


def test_not_there_and_no_server(server, offer, tmp_path, monkeypatch):
    offer(tgz(GOOD))
    server.files.clear()
    with pytest.raises(DataError, match=r"404.*put small\.tgz \(MD5 .*\) into"):
        data.open_sets("small", cache=tmp_path)
    assert len(server.asked) == 1, "what is not there is not asked for again"
    monkeypatch.setitem(
        download.NAMES, "small", Download("http://127.0.0.1:1/", {"small.tgz": "0" * 32}, "small")
    )
    with pytest.raises(DataError, match="could not download"):
        data.open_sets("small", cache=tmp_path)
    with pytest.raises(DataError, match="--cache off"):
        data.open_sets("small", cache=None)


def test_several_files_without_an_archive(server, monkeypatch, tmp_path):
    files = {"a.bin": b"12", "b.bin": b"345"}
    server.files |= files
    monkeypatch.setitem(
        download.NAMES,
        "pair",
        Download(server.address, {n: hashlib.md5(c).hexdigest() for n, c in files.items()}),
    )
    folder = download.fetch("pair", tmp_path)
    assert {n: (folder / n).read_bytes() for n in files} == files


def test_a_folder_of_that_name_goes_first(server, offer, tmp_path, monkeypatch):
    offer(tgz(GOOD))
    monkeypatch.chdir(tmp_path)
    for name, content in GOOD.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert len(data.open_sets("small", cache=tmp_path)[0]) == 2
    assert server.asked == []


def test_the_table_names_what_the_sources_publish():
    for entry in download.NAMES.values():
        assert entry.address.startswith("https://")
        assert all(len(md5) == 32 and int(md5, 16) for md5 in entry.files.values())


# Servers that mean harm, or are broken.


def test_a_body_without_an_end_is_stopped(server, offer, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 1 << 20)
    offer(tgz(GOOD))
    server.length, server.instead = None, itertools.repeat(bytes(1 << 16))
    with pytest.raises(DataError, match="small.tgz sends more than 1,048,576 bytes: it was stop"):
        data.open_sets("small", cache=tmp_path)
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) == 0


def test_a_body_too_large_for_the_disk_is_refused(server, offer, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SPARED", 2**62)
    offer(tgz(GOOD))
    server.length = "1000000"
    with pytest.raises(DataError, match="small.tgz has 1,000,000 bytes, and at most 0 may"):
        data.open_sets("small", cache=tmp_path)


def test_a_byte_at_a_time_is_no_progress(server, offer, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    monkeypatch.setattr(download, "TRIES", 2)
    offer(tgz(GOOD))

    class Drip:
        def __iter__(self):
            for _ in range(1000):
                time.sleep(0.02)
                yield b"x"

    server.length, server.instead = "100000", Drip()
    with pytest.raises(DataError, match=r"only [0-9]+ bytes came in 0.3 s \([0-9]+ bytes are kept"):
        data.open_sets("small", cache=tmp_path)


@pytest.mark.parametrize("length", ["x", "-5", "9" * 40, "1e9", None])
def test_a_content_length_that_is_no_number(server, offer, tmp_path, length):
    offer(tgz(GOOD))
    server.length = length
    assert len(data.open_sets("small", cache=tmp_path)[0]) == 2
