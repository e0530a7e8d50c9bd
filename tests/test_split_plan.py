from collections import Counter

import pytest

from railsformer.data.splits.plan import LeftOut, leave_out_copies, merge_groups, plan_split
from railsformer.data.splits.sides import SPLITS, count_labels

RATIOS = (0.6, 0.2, 0.2)


def _rows(num_groups, *, rows_a_group=4):
    groups = [f"g{index:02d}" for index in range(num_groups) for _ in range(rows_a_group)]
    labels = ["x" if row % 2 else "y" for row in range(len(groups))]
    return groups, labels


def _across(sides, copies):
    return [cluster for cluster in copies if len({sides[row] for row in cluster} - {None}) > 1]


def test_without_copies_every_row_has_a_side():
    groups, labels = _rows(10)
    plan = plan_split(groups, labels, split="group", ratios=RATIOS, seed=0)
    assert plan.left_out == ()
    assert set(plan.sides) == set(SPLITS)


@pytest.mark.parametrize("seed", range(5))
def test_groups_that_share_a_copy_go_to_one_side_whole(seed):
    groups, labels = _rows(20)
    copies = [(0, 30), (31, 50), (60, 79)]  # g00-g07-g12 through g07, g15-g19
    plan = plan_split(groups, labels, split="group", ratios=RATIOS, seed=seed, copies=copies)
    assert plan.left_out == ()
    assert _across(plan.sides, copies) == []
    side_of = dict(zip(groups, plan.sides, strict=True))
    assert [side_of[group] for group in groups] == list(plan.sides)  # groups stayed whole
    assert side_of["g00"] == side_of["g07"] == side_of["g12"]


def test_with_few_groups_the_training_copy_is_left_out_instead():
    groups, labels = _rows(3)
    copies = [(0, 4), (5, 8)]
    plan = plan_split(groups, labels, split="group", ratios=RATIOS, seed=0, copies=copies)
    assert _across(plan.sides, copies) == []
    assert set(plan.sides) == {*SPLITS, None}
    assert len(plan.left_out) == 2
    for out in plan.left_out:
        assert plan.sides[out.row] is None
        assert plan.sides[out.copy_of] is not None


def test_a_chain_of_copies_does_not_glue_most_groups_together():
    groups, labels = _rows(20)
    copies = [(4 * group, 4 * group + 5) for group in range(17)]  # g00-g01-…-g17
    plan = plan_split(groups, labels, split="group", ratios=RATIOS, seed=0, copies=copies)
    assert _across(plan.sides, copies) == []
    assert Counter(plan.sides)["train"] < 60
    assert plan.left_out


def test_sides_fixed_by_name_keep_their_copies_and_training_loses_its_own():
    groups, labels = _rows(10)
    copies = [(0, 4), (12, 36, 20), (5, 37)]
    plan = plan_split(
        groups,
        labels,
        split="group",
        ratios=RATIOS,
        seed=0,
        test_groups=["g09"],
        validation_groups=["g01"],
        copies=copies,
    )
    assert plan.sides[36] == plan.sides[37] == "test"
    assert plan.sides[4] == "validation"
    assert plan.left_out == (LeftOut(0, 4), LeftOut(5, 37), LeftOut(12, 36), LeftOut(20, 36))
    assert Counter(side for group, side in zip(groups, plan.sides, strict=True) if group == "g09") == {"test": 4}


def test_a_random_split_keeps_copies_together():
    groups, labels = _rows(1, rows_a_group=60)
    copies = [(row, row + 30) for row in range(30)]
    plan = plan_split(groups, labels, split="random", ratios=RATIOS, seed=0, copies=copies)
    assert _across(plan.sides, copies) == []
    assert plan.left_out == ()
    assert Counter(plan.sides) == {"train": 36, "validation": 12, "test": 12}


def test_a_random_split_is_stratified_and_drawn_by_the_seed():
    labels = ["x"] * 100 + ["y"] * 20

    def draw(seed):
        plan = plan_split(["one"] * 120, labels, split="random", ratios=(0.7, 0.15, 0.15), seed=seed)
        assert plan.left_out == ()
        return plan.sides

    sides = draw(0)
    assert count_labels(labels, sides) == {
        "train": {"x": 70, "y": 14},
        "validation": {"x": 15, "y": 3},
        "test": {"x": 15, "y": 3},
    }
    assert sides == draw(0)
    assert sides != draw(1)
    assert "test" in sides[:30]  # drawn, not the tail of the list
    assert "train" in sides[70:100]


def test_the_validation_copy_gives_way_to_the_test_copy():
    sides = ["train", "train", "validation", "validation", "test"]
    plan = leave_out_copies(sides, ["x"] * 5, groups=list("abcde"), copies=[(1, 3, 4)])
    assert plan.sides == ("train", None, "validation", None, "test")
    assert plan.left_out == (LeftOut(1, 4), LeftOut(3, 4))


def test_a_side_that_only_held_copies_is_refused():
    with pytest.raises(ValueError, match="with 1 copies left out: split 'validation' would have no sample"):
        leave_out_copies(["train", "validation", "test"], ["x"] * 3, groups=list("abc"), copies=[(1, 2)])


def test_a_label_that_training_only_had_as_copies_is_refused():
    with pytest.raises(ValueError, match="label 'y' would have no training sample"):
        leave_out_copies(["train", "train", "validation", "test"], list("xyxy"), groups=list("abcd"), copies=[(1, 3)])


def test_a_random_split_takes_no_sides_by_name():
    with pytest.raises(ValueError, match="--split random ignores groups"):
        plan_split(["a"] * 9, ["x"] * 9, split="random", ratios=RATIOS, seed=0, test_groups=["a"])


def test_merged_groups_take_the_first_name():
    groups = ["c", "a", "b", "d", "e"]
    assert merge_groups(groups, [(0, 2), (2, 1)]) == ["a", "a", "a", "d", "e"]
    assert merge_groups(groups, [(0, 2), (2, 1)], apart={"b"}) == ["c", "a", "b", "d", "e"]
