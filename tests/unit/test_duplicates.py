import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.transcripts.config import ChecksConfig
from pipelines.transcripts.duplicates import find_repeats

WORDS = ["start", "stop", "the", "losartan", "daily", "today", "please", "hold", "warfarin", "and", "then", "wait"]
COPY, NEAR = "a copy of another sentence", "nearly a copy of another sentence"


def rows(*texts, style="clinical_en", pattern="p"):
    return [(f"{index:04d}", style, pattern, text) for index, text in enumerate(texts)]


def test_copies_are_found_whatever_their_dress():
    found = find_repeats(rows("Stop losartan.", "stop  LOSARTAN", "Hold it."), ChecksConfig(max_near_duplicates=1))
    assert found == {"0001": COPY}


def test_chinese_copies_are_found_with_and_without_spaces():
    found = find_repeats(rows("复查 CT。", "复查CT", "复查 MRI"), ChecksConfig(max_near_duplicates=1))
    assert found == {"0001": COPY}


def test_near_copies_are_those_whose_word_pairs_overlap_by_more_than_the_share():
    texts = ("please start losartan fifty milligrams daily", "please start losartan forty milligrams daily")
    shared = 3 / 7  # of seven pairs the first, the second and the last
    assert find_repeats(rows(*texts), ChecksConfig(max_near_duplicates=0.4)) == {"0001": NEAR}
    assert find_repeats(rows(*texts), ChecksConfig(max_near_duplicates=shared)) == {}


def test_copies_stay_where_nobody_asked():
    assert find_repeats(rows("Stop it.", "Stop it."), ChecksConfig()) == {}


def test_what_is_near_only_to_a_sentence_set_aside_stays():
    one = "a b c d e f g h i j"
    two = "a b c d e f g h i x"  # 8 of 10 pairs shared with one
    three = "a b c d e f g y i x"  # near two, but not near one
    found = find_repeats(rows(one, two, three), ChecksConfig(max_near_duplicates=0.6))
    assert found == {"0001": NEAR}


def test_a_pattern_gets_no_more_than_its_share_of_its_style():
    many = [(f"{i:02d}", "clinical_en", "common", f"sentence number {i}") for i in range(8)]
    few = [(f"x{i}", "clinical_en", "rare", f"another one {i}") for i in range(2)]
    other = [("y", "everyday_en", "common", "good morning")]
    found = find_repeats([*many, *few, *other], ChecksConfig(max_pattern_share=0.5))
    assert sorted(found) == ["05", "06", "07"]
    assert set(found.values()) == {"its pattern has more than 0.5 of its style's sentences"}


def test_copies_do_not_count_towards_a_patterns_share():
    others = [("9", "clinical_en", "q", "three"), ("91", "clinical_en", "q", "four")]
    found = find_repeats(
        [*rows("one", "one", "one", "two"), *others], ChecksConfig(max_near_duplicates=1, max_pattern_share=0.5)
    )
    assert found == {"0001": COPY, "0002": COPY}


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join), max_size=30),
    near=st.sampled_from([None, 0.3, 0.5, 0.8, 1]),
    share=st.sampled_from([None, 0.2, 0.5]),
    shuffle=st.randoms(use_true_random=False),
)
def test_the_order_of_arrival_does_not_matter(texts, near, share, shuffle: random.Random):
    config = ChecksConfig(max_near_duplicates=near, max_pattern_share=share)
    table = [(f"{i:04d}", "ab"[i % 2], "pqr"[i % 3], text) for i, text in enumerate(texts)]
    mixed = table.copy()
    shuffle.shuffle(mixed)
    assert find_repeats(table, config) == find_repeats(mixed, config)


@pytest.mark.parametrize("most_shared", [0.4, 0.7])
def test_hardly_a_near_copy_is_missed(most_shared):
    """LSH finds by chance: what it misses of what a comparison of all with all finds."""
    rng = random.Random(0)
    originals = [[rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(20)] for _ in range(150)]
    texts = [" ".join(original) for original in originals]
    for original in originals:
        copy = original.copy()
        copy[rng.randrange(20)] = "changed"
        texts.append(" ".join(copy))
    found = find_repeats(rows(*texts), ChecksConfig(max_near_duplicates=most_shared))
    assert set(found) <= {f"{index:04d}" for index in range(150, 300)}
    assert len(found) >= 148
