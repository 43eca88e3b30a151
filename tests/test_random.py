"""Philox against the published known answers, and streams that depend on nothing but their key."""

import zlib

import numpy as np
import pytest

from minigrad import random

# Random123's kat_vectors, philox4x32 10: counter, key -> words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words):
    got = random.philox(tuple(np.uint64(c) for c in counter), key)
    assert tuple(int(w) for w in got) == words


def test_any_part_of_a_draw_is_the_same_numbers():
    whole = random.bits(3, 7, 1, 1001)
    np.testing.assert_array_equal(whole[400:777], random.bits(3, 7, 1, 377, start=400))
    assert whole.dtype == np.uint32


def test_draws_go_on_beyond_2_to_the_32():
    """The number of a draw has 64 bits: words 2 and 3 of the counter."""
    draw = (7 << 32) + 5
    got = random.philox((np.uint64(0), np.uint64(0), np.uint64(5), np.uint64(7)), (3, 9))
    assert random.bits(3, 9, draw, 4).tolist() == [int(w) for w in got]


def test_numbers_by_hand():
    """uniform: 27 and 26 bits of two words; normal: Box and Muller's cosine."""
    a, b, c, d = (int(w) for w in random.bits(1, zlib.crc32(b"a"), 0, 4))
    u, v = ((x >> 5) * 2.0**-27 + (y >> 6) * 2.0**-53 for x, y in ((a, b), (c, d)))
    assert random.Stream(1, "a").uniform(2).tolist() == [u, v]
    normal = random.Stream(1, "a").normal(1)[0]
    assert normal == pytest.approx(np.sqrt(-2 * np.log(1 - u)) * np.cos(2 * np.pi * v), rel=1e-14)
    assert random.Stream(1, "a").integers(1000, 2).tolist() == [int(1000 * u), int(1000 * v)]
    assert random.Stream(1, "a").permutation(2).tolist() == [int(u > v), int(u <= v)]


def test_long_draws_are_made_in_pieces_without_a_seam():
    n = random.PIECE + 5
    values = random.Stream(1, "a").uniform(n)
    np.testing.assert_array_equal(values[:10], random.Stream(1, "a").uniform(10))
    assert len(np.unique(values)) == n


@pytest.mark.parametrize("other", [random.Stream(1, "b"), random.Stream(2, "a")])
def test_seed_and_name_tell_streams_apart(other):
    ours = random.Stream(1, "a").uniform(1000)
    theirs = other.uniform(1000)
    assert abs(np.corrcoef(ours, theirs)[0, 1]) < 0.1


def test_draws_differ_and_the_counter_is_the_whole_state():
    stream = random.Stream(1, "a")
    first, second = stream.normal(5), stream.normal(5)
    assert not np.array_equal(first, second)
    again = random.Stream(1, "a")
    again.counter = 1
    np.testing.assert_array_equal(again.normal(5), second)


def test_rewound_repeats():
    stream = random.Stream(1, "a")
    with random.rewound():
        first = stream.uniform(3)
        stream.uniform(3)
    np.testing.assert_array_equal(stream.uniform(3), first)


def test_a_rewind_inside_a_rewind():
    a, b = random.Stream(1, "a"), random.Stream(1, "b")
    b.counter = 4
    with random.rewound():
        a.uniform()
        with random.rewound():
            a.uniform(3)
        assert a.counter == 1
        b.uniform()
    assert (a.counter, b.counter) == (0, 4)
    b.uniform()
    assert b.counter == 5


def test_a_part_inside_a_part():
    with random.part(8):
        with random.part(3):
            assert random.first_row() == 3
        assert random.first_row() == 8
    assert random.first_row() == 0


def test_the_default_stream_and_a_given_one():
    before = random.default_stream()
    try:
        random.seed(7)
        assert repr(random.stream(None, "x")) == "Stream(seed=7, name='default', counter=0)"
        assert random.stream(None, "x") is random.default_stream()
    finally:
        random._default = before
    own = random.Stream(1, 5)
    assert random.stream(own, "x") is own
    with pytest.raises(TypeError, match=r"x: rng must be a minigrad\.random\.Stream.* not int"):
        random.stream(3, "x")


def test_moments():
    stream = random.Stream(0, "moments")
    u, n = stream.uniform(200_000), stream.normal(200_000)
    assert 0 <= u.min() < u.max() < 1
    # five standard errors
    assert abs(u.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 200_000)
    assert abs(n.mean()) < 5 / np.sqrt(200_000)
    assert abs(n.std() - 1) < 5 / np.sqrt(2 * 200_000)
    assert abs((n**3).mean()) < 5 * np.sqrt(15 / 200_000)


def test_integers_and_permutation():
    stream = random.Stream(0, "whole")
    counts = np.bincount(stream.integers(7, 70_000), minlength=7)
    assert counts.min() > 9_500
    assert counts.max() < 10_500
    assert sorted(stream.permutation(1000)) == list(range(1000))
    assert stream.integers(5) in range(5)


def test_seeds_and_names_are_words_of_32_bits():
    largest = random.Stream(2**32 - 1, 2**32 + 6)
    assert largest.uniform() == random.Stream(2**32 - 1, 6).uniform()
    assert largest.stream == 6


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(ValueError, match="0 to 2\\*\\*32 - 1"):
        random.Stream(seed, "a")
