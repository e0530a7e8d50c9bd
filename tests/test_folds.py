from collections import Counter

import pytest

from railsformer.data.splits.folds import Fold, assign_folds, leave_one_group_out
from railsformer.data.splits.plan import LeftOut


def _rows(num_groups, *, rows_a_group=4):
    groups = [f"g{index:02d}" for index in range(num_groups) for _ in range(rows_a_group)]
    return groups, ["x" if row % 4 else "y" for row in range(len(groups))]


@pytest.mark.parametrize("num_groups", [6, 30, 300])
def test_folds_are_stratified_and_keep_groups_and_copies_whole(num_groups):
    groups, labels = _rows(num_groups)
    copies = [(0, 5), (13, 20)]
    folds = assign_folds(groups, labels, num_folds=3, seed=0, copies=copies)
    assert all(
        len({fold for fold, other in zip(folds, groups, strict=True) if other == group}) == 1 for group in groups
    )
    assert all(len({folds[row] for row in cluster}) == 1 for cluster in copies)
    counts = Counter(zip(folds, labels, strict=True))
    for fold in range(3):
        assert counts[fold, "y"] == pytest.approx(num_groups / 3, abs=1)
        assert counts[fold, "x"] == 3 * counts[fold, "y"]


def test_the_seed_draws_the_folds():
    groups, labels = _rows(30)
    assert assign_folds(groups, labels, num_folds=5, seed=1) == assign_folds(groups, labels, num_folds=5, seed=1)
    assert assign_folds(groups, labels, num_folds=5, seed=1) != assign_folds(groups, labels, num_folds=5, seed=2)


@pytest.mark.parametrize(
    ("num_groups", "options", "message"),
    [
        (3, {"num_folds": 5}, "5 folds need as many groups, got 3; ask for 3 folds or fewer"),
        (3, {"num_folds": 3, "copies": [(0, 4)]}, r"got 2 \(3 before those with copies were joined\)"),
        (3, {"num_folds": 1}, "num_folds must be 2 or more, got 1"),
        (3, {"num_folds": 2, "seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_folds_that_cannot_be(num_groups, options, message):
    groups, labels = _rows(num_groups)
    with pytest.raises(ValueError, match=message) as caught:
        assign_folds(groups, labels, **{"seed": 0, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda *rows: assign_folds(*rows, num_folds=2, seed=0), leave_one_group_out])
def test_a_label_that_one_group_shows_is_refused(make):
    with pytest.raises(ValueError, match="label 'y' is in one group alone, 'b'"):
        make(list("aabbcc"), list("xxxyxx"))


def test_one_group_is_left_out_at_a_time_with_its_copies():
    folds = leave_one_group_out(list("aabbcc"), list("xyxyxy"), copies=[(0, 2), (3, 5)])
    assert folds == [
        Fold("a", train_rows=(3, 4, 5), test_rows=(0, 1), left_out=(LeftOut(2, 0),)),
        Fold("b", train_rows=(1, 4), test_rows=(2, 3), left_out=(LeftOut(0, 2), LeftOut(5, 3))),
        Fold("c", train_rows=(0, 1, 2), test_rows=(4, 5), left_out=(LeftOut(3, 5),)),
    ]


def test_a_fold_whose_training_has_only_copies_of_a_label_is_refused():
    with pytest.raises(ValueError, match="label 'y' would have no training sample when group 'a' is tested on"):
        leave_one_group_out(list("aabb"), list("xyxy"), copies=[(1, 3)])


def test_one_group_cannot_be_left_out():
    with pytest.raises(ValueError, match="needs two groups or more, got 1"):
        leave_one_group_out(["a", "a"], ["x", "y"])
