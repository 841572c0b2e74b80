"""Fractions, hold-outs and lists of labels."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clrkit.data.splits import PixelArray, Split
from clrkit.data.subsets import hold_out, label_subset, listed_subset
from clrkit.errors import DataError

# Labels of 1 to 5 classes, some images without (-1), in any order.
labels_or_none = st.lists(st.integers(-1, 4), min_size=20, max_size=150)
some_labels = labels_or_none.map(lambda rows: np.array(rows, np.int64))
fractions = st.floats(0.05, 1.0)
seeds = st.integers(0, 2**32 - 1)


def enough(labels: np.ndarray, fraction: float) -> bool:
    known = labels[labels >= 0]
    return len(known) > 0 and round(fraction * len(known)) >= len(np.unique(known))


def counts(labels: np.ndarray) -> dict[int, int]:
    return dict(zip(*(values.tolist() for values in np.unique(labels, return_counts=True)), strict=True))


@given(some_labels, fractions, fractions, seeds)
def test_a_smaller_fraction_lies_in_a_larger_one(labels, one, other, seed):
    small, large = sorted((one, other))
    assume(enough(labels, small))
    assert set(label_subset(labels, small, seed)) <= set(label_subset(labels, large, seed))


@given(some_labels, fractions, seeds)
def test_a_fraction_is_stratified_with_every_class_in_it(labels, fraction, seed):
    assume(enough(labels, fraction))
    chosen, available = counts(labels[label_subset(labels, fraction, seed)]), counts(labels[labels >= 0])
    assert chosen.keys() == available.keys()
    assert all(abs(chosen[label] - fraction * count) <= 1 for label, count in available.items())


@given(some_labels, fractions, seeds)
def test_a_fraction_is_sorted_without_repeats_and_fixed_by_its_seed(labels, fraction, seed):
    assume(enough(labels, fraction))
    chosen = label_subset(labels, fraction, seed)
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, label_subset(labels, fraction, seed))


@given(some_labels, seeds)
def test_the_whole_fraction_is_every_label(labels, seed):
    assume(enough(labels, 1.0))
    assert np.array_equal(label_subset(labels, 1.0, seed), np.flatnonzero(labels >= 0))


@given(some_labels, st.floats(0.001, 0.05), seeds)
def test_less_than_one_label_a_class_is_refused(labels, fraction, seed):
    known = labels[labels >= 0]
    assume(len(known) and not enough(labels, fraction))
    with pytest.raises(DataError, match=f"of {len(known)} labelled images is .* the "):
        label_subset(labels, fraction, seed)


def test_the_smallest_possible_fraction_in_the_message_is_possible():
    labels = np.arange(400) % 10
    with pytest.raises(DataError, match=r"fraction 0\.01 of 400 .* the smallest possible is 0\.025\.$"):
        label_subset(labels, 0.01, seed=0)
    assert len(label_subset(labels, 0.025, seed=0)) == 10


def test_another_seed_draws_other_images():
    labels = np.arange(400) % 10
    assert not np.array_equal(label_subset(labels, 0.1, seed=0), label_subset(labels, 0.1, seed=1))


def test_the_draw_of_a_seed_is_frozen():
    labels = np.arange(60) % 3
    assert label_subset(labels, 0.1, seed=7).tolist() == [3, 8, 22, 26, 51, 55]


@given(some_labels.map(lambda labels: np.tile(labels, 2)), st.integers(2, 10))
def test_a_hold_out_is_disjoint_stratified_and_leaves_every_class(labels, share):
    available = counts(labels[labels >= 0])
    kept, held = hold_out(labels, share, "abcde")
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert (labels[held] >= 0).all()
    assert counts(labels[held]).keys() == counts(labels[kept][labels[kept] >= 0]).keys() == available.keys()
    assert all(abs(counts(labels[held])[label] - count / share) <= 1 for label, count in available.items())


def test_a_class_of_one_image_cannot_be_held_out():
    with pytest.raises(DataError, match=r"Class bird has one labelled image"):
        hold_out(np.array([0, 0, 1, -1]), 5, ["ape", "bird"])


NAMES = ["train/cat/one.png", "train/cat/two.png", "train/dog/one.png", "more/three.png", "dog/n0_7.JPEG"]


@pytest.fixture
def part():
    return Split(PixelArray(np.zeros((5, 3, 2, 2), np.uint8)), np.array([0, 0, 1, -1, 1]), NAMES)


@pytest.mark.parametrize(
    ("listed", "chosen"),
    [
        ("two.png\n", [1]),
        ("two\n\nn0_7.JPEG\n", [1, 4]),
        ("n0_7\ntrain/cat/two.png\ncat/two.png\n", [1, 4]),
        ("dog/one.png", [2]),
        ("  train/dog/one\n", [2]),
    ],
)
def test_a_list_names_images_by_path_or_its_end_with_or_without_suffix(part, tmp_path, listed, chosen):
    (tmp_path / "list.txt").write_text(listed)
    assert listed_subset(part, str(tmp_path / "list.txt")).tolist() == chosen


@pytest.mark.parametrize(
    ("listed", "complaint"),
    [
        ("two\u2028.png", "names two\u2028.png, which is not among the training images"),
        ("one.png", r"names one\.png, which is the name of several images"),
        ("four.png", r"names four\.png, which is not among the training images"),
        ("wo.png", r"names wo\.png, which is not among"),
        ("three.png", r"names three\.png, which has no label"),
        ("\n \n", "is empty"),
        (b"\xff\xfe\xfa", "cannot be read: .*codec"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_list_that_cannot_be_followed_names_the_line(part, tmp_path, listed, complaint):
    path = tmp_path / "list.txt"
    if listed is not None:
        path.write_bytes(listed if isinstance(listed, bytes) else listed.encode())
    with pytest.raises(DataError, match=rf"^The label list {path} {complaint}.*\.$"):
        listed_subset(part, str(path))
