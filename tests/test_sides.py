import csv
import time
from collections import Counter

import numpy as np
import pytest

from railsformer.data.splits.sides import (
    SPLITS,
    assign_groups,
    check_sides,
    count_labels,
    describe_split,
    leaks,
)


def _rows(table):
    """Turn {group: {label: count}} into the groups and labels of rows."""
    pairs = [(group, label) for group, of in table.items() for label, count in of.items() for _ in range(count)]
    return [group for group, _ in pairs], [label for _, label in pairs]


def _sizes(groups, assignment):
    return Counter(assignment[group] for group in groups)


def test_few_groups_get_the_best_assignment():
    groups, labels = _rows({"a": {"x": 70, "y": 7}, "b": {"x": 15, "y": 2}, "c": {"x": 15, "y": 1}})
    assignment = assign_groups(groups, labels, seed=0)
    assert assignment["a"] == "train"
    assert sorted(assignment.values()) == ["test", "train", "validation"]


def test_one_group_that_fits_exactly_is_found_among_many():
    groups, labels = _rows({f"g{index}": {"x": 7, "y": 3} for index in range(20)})
    assignment = assign_groups(groups, labels, seed=3)
    assert Counter(assignment.values()) == {"train": 14, "validation": 3, "test": 3}


def test_order_of_rows_does_not_matter():
    groups, labels = _rows({f"g{index}": {"x": index + 1, "y": 5} for index in range(12)})
    order = np.random.default_rng(0).permutation(len(groups))
    shuffled = assign_groups([groups[i] for i in order], [labels[i] for i in order], seed=0)
    assert shuffled == assign_groups(groups, labels, seed=0)


@pytest.mark.parametrize("num_groups", [20, 60, 300, 3000])
def test_label_shares_of_many_groups(num_groups):
    rng = np.random.default_rng(num_groups)
    groups = [f"g{index}" for index in rng.integers(num_groups, size=num_groups * 8)]
    labels = [str(label) for label in rng.choice(4, p=[0.6, 0.2, 0.15, 0.05], size=len(groups))]
    start = time.monotonic()
    assignment = assign_groups(groups, labels, ratios=(0.6, 0.2, 0.2), seed=0)
    assert time.monotonic() - start < 3
    sides = [assignment[group] for group in groups]
    assert leaks(groups, sides) == {}
    totals = Counter(labels)
    for side, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        for label, count in count_labels(labels, sides)[side].items():
            assert count / totals[label] == pytest.approx(share, abs=0.13 if num_groups == 20 else 0.05)


def test_a_rare_label_stays_in_training():
    groups, labels = _rows({f"g{index}": {"x": 10} for index in range(30)} | {"rare": {"x": 10, "y": 1}})
    assert assign_groups(groups, labels, seed=0)["rare"] == "train"
    groups, labels = _rows({"a": {"x": 5}, "b": {"x": 5}, "c": {"x": 20, "y": 1}})  # enumerated
    assert assign_groups(groups, labels, seed=0)["c"] == "train"


def test_sides_fixed_by_name():
    groups, labels = _rows({f"g{index}": {"x": 6, "y": 4} for index in range(10)})
    assignment = assign_groups(groups, labels, seed=0, test_groups=["g4"], validation_groups=["g7", "g8"])
    assert {group for group, side in assignment.items() if side == "test"} == {"g4"}
    assert {group for group, side in assignment.items() if side == "validation"} == {"g7", "g8"}
    assert Counter(assignment.values())["train"] == 7


def test_a_side_left_open_gets_its_share_of_the_rest():
    groups, labels = _rows({f"g{index}": {"x": 6, "y": 4} for index in range(21)})
    assignment = assign_groups(groups, labels, ratios=(0.8, 0.1, 0.1), seed=0, test_groups=["g0", "g1", "g2"])
    assert Counter(assignment.values()) == {"train": 16, "validation": 2, "test": 3}


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ({"a": {"x": 9, "y": 9}, "b": {"x": 9, "y": 9}}, {}, r"split 'test' would have no sample: 2 group\(s\)"),
        (
            {"cam_1": {"x": 9, "y": 9}, "cam_2": {"x": 9}, "cam_3": {"x": 9}},
            {"test_groups": ["cam-1"]},
            "--test_groups: no group 'cam-1', did you mean 'cam_1'.; the groups are cam_1, cam_2, cam_3",
        ),
        (
            {"a": {"x": 9, "y": 9}, "b": {"x": 9}, "c": {"x": 9}},
            {"test_groups": ["a"]},
            r"label 'y' would have no training sample: all of it is in 1 group\(s\), a \(test\)",
        ),
        (
            {"a": {"x": 9, "y": 9}, "b": {"x": 9}, "c": {"x": 9}},
            {"test_groups": ["b"], "validation_groups": ["b"]},
            "group 'b' is in --test_groups and in --validation_groups",
        ),
        (
            {"a": {"x": 9, "y": 9}, "b": {"x": 9}, "c": {"x": 9}},
            {"test_groups": ["b"], "validation_groups": ["a", "c"]},
            "split 'train' would have no sample",
        ),
        ({"a": {"x": 9}}, {"ratios": (0.8, 0.2)}, "splits must be three shares above 0 with sum 1 .* got 0.8 0.2"),
        ({"a": {"x": 9}}, {"ratios": (0.8, 0.2, 0)}, "splits must be three shares above 0"),
        ({"a": {"x": 9}}, {"ratios": (70, 15, 15)}, "splits must be three shares above 0"),
        ({"a": {"x": 9}}, {"ratios": (float("nan"), 0.5, 0.5)}, "splits must be three shares .* got nan 0.5 0.5"),
        ({"a": {"x": 9}}, {"ratios": (float("inf"), 0.5, 0.5)}, "splits must be three shares .* got inf 0.5 0.5"),
        ({"a": {"x": 9}}, {"seed": -1}, "seed must be 0 or more, got -1"),
        ({"a": {"x": 9}}, {"test_groups": ["a", ""]}, "--test_groups holds an empty name"),
    ],
)
def test_refusals(table, options, message):
    groups, labels = _rows(table)
    with pytest.raises(ValueError, match=message) as caught:
        assign_groups(groups, labels, **{"seed": 0, **options})
    assert "\n" not in str(caught.value)


def test_check_sides_names_an_empty_side():
    with pytest.raises(ValueError, match="split 'validation' would have no sample"):
        check_sides(["train", "test"], ["x", "x"], groups=["a", "b"])


def test_leaks_names_the_groups_on_several_sides():
    assert leaks(["a", "a", "b", "c", "c"], ["test", "train", "test", "train", "train"]) == {"a": ("train", "test")}


@pytest.mark.parametrize(
    ("split", "group_by", "expected"),
    [
        ("group", "camera", "by camera (6 groups)"),
        ("group", None, "by file; recordings unknown"),
        ("random", "camera", "random rows; recordings may lie on both sides"),
    ],
)
def test_split_kinds(split, group_by, expected):
    assert describe_split(split=split, group_by=group_by, num_groups=6) == expected


def test_tankyard_with_a_camera_held_out(tankyard):
    with (tankyard / "clips.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    groups, labels = [row["camera"] for row in rows], [row["label"] for row in rows]
    assignment = assign_groups(groups, labels, seed=0, test_groups=["inside_turquoise_bridge_0"])
    assert _sizes(groups, assignment) == {"train": 264, "validation": 31, "test": 102}
    counts = count_labels(labels, [assignment[group] for group in groups])
    assert counts["train"] == {"bridge_down": 160, "bridge_up": 38, "no_action": 26, "train_in_out": 40}
    assert counts["validation"] == {"bridge_down": 10, "bridge_up": 9, "no_action": 3, "train_in_out": 9}
    assert counts["test"] == {"bridge_down": 75, "bridge_up": 11, "no_action": 10, "train_in_out": 6}
