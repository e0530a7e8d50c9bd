import json

import pytest

from railsformer.data.copies.clusters import Copies, NearCopy
from railsformer.data.splits.audit import audit_split, check_labels_of_copies
from railsformer.data.splits.plan import LeftOut, plan_split

NAMES = [f"clip_{index:03d}.mp4" for index in range(120)]
GROUPS = [f"camera_{index // 12}" for index in range(120)]
LABELS = ["x" if index % 3 else "y" for index in range(120)]
COPIES = Copies(
    exact=((0, 30), (1, 61, 91)),
    near=(NearCopy(3, 6, similarity=0.97, offset_seconds=1.25), NearCopy(9, 40, similarity=0.91, offset_seconds=-3.0)),
    too_still=(7,),
)


def _audit(sides, left_out=(), **options):
    return audit_split(
        NAMES, GROUPS, LABELS, sides, copies=COPIES, split_kind="by camera (10 groups)", left_out=left_out, **options
    )


def test_a_planned_split_has_nothing_on_several_sides():
    plan = plan_split(GROUPS, LABELS, split="group", ratios=(0.7, 0.15, 0.15), seed=0, copies=COPIES.clusters())
    audit = _audit(plan.sides, plan.left_out)
    stored = audit.to_json()
    assert stored["groups_on_several_sides"] == 0
    assert stored["exact_copies"]["on_several_sides"] == stored["near_copies"]["on_several_sides"] == 0


def test_leaks_are_counted_from_the_sides_and_not_assumed():
    sides = ["train"] * 60 + ["validation"] * 30 + ["test"] * 30  # rows 60 to 71 are camera_5
    sides[4] = "test"
    sides[40] = "test"
    audit = _audit(sides)
    assert audit.groups_on_several_sides == 3  # camera_0, 3 and 7
    assert audit.exact_on_several_sides == 1
    assert audit.near_on_several_sides == 1


def test_a_row_without_a_side_leaks_nothing_and_counts_nowhere():
    sides = ["train"] * 60 + ["validation"] * 30 + ["test"] * 30
    sides[1] = sides[61] = None
    audit = _audit(sides, [LeftOut(1, 91), LeftOut(61, 91)])
    assert audit.exact_on_several_sides == 0
    assert audit.balance == {
        "train": {"x": 39, "y": 20},
        "validation": {"x": 19, "y": 10},
        "test": {"x": 20, "y": 10},
    }
    assert audit.to_json()["left_out"] == [
        {"file_name": "clip_001.mp4", "copy_of": "clip_091.mp4", "kind": "exact"},
        {"file_name": "clip_061.mp4", "copy_of": "clip_091.mp4", "kind": "exact"},
    ]


def test_the_json_is_as_documented():
    sides = ["train"] * 60 + ["validation"] * 30 + ["test"] * 29 + [None]
    stored = json.loads(json.dumps(_audit(sides).to_json()))
    assert stored["version"] == 1
    assert stored["split_kind"] == "by camera (10 groups)"
    assert stored["num_groups"] == 10
    assert stored["exact_copies"]["clusters"] == [
        ["clip_000.mp4", "clip_030.mp4"],
        ["clip_001.mp4", "clip_061.mp4", "clip_091.mp4"],
    ]
    assert stored["near_copies"]["pairs"][0] == {
        "first": "clip_003.mp4",
        "second": "clip_006.mp4",
        "similarity": 0.97,
        "offset_seconds": 1.25,
        "still": False,
    }
    assert stored["label_conflicts"] == [["clip_009.mp4", "clip_040.mp4"]]
    assert set(stored["random_split"]) == {"draws", "test_rows", "exact_leaked", "near_leaked", "same_group"}


def test_a_random_split_leaks_as_often_as_chance_says():
    names, labels = [f"{index}.mp4" for index in range(400)], ["x"] * 400
    copies = Copies(exact=tuple((2 * pair, 2 * pair + 1) for pair in range(100)), near=(), too_still=())
    audit = audit_split(
        names, names, labels, ["train"] * 400, copies=copies, split_kind="random", ratios=(0.7, 0.15, 0.15)
    )
    drawn = audit.random_split
    assert drawn.draws == 100
    assert drawn.test_rows == pytest.approx(60, abs=0.6)
    assert drawn.exact_leaked == pytest.approx(30 * 0.7, rel=0.1)  # half of the test rows have a copy
    assert drawn.near_leaked == 0
    assert drawn.same_group == 0


def test_the_markdown_names_every_figure():
    sides = ["train"] * 60 + ["validation"] * 30 + ["test"] * 30
    text = _audit(sides).to_markdown()
    assert "| sets of exact copies | 2 | 1 |" in text
    assert "| pairs of near copies | 2 | 0 |" in text
    assert "| train | 40 | 20 | 60 |" in text
    assert "- `clip_009.mp4` and `clip_040.mp4`" in text
    assert "100 draws" in text


def test_the_same_pictures_under_two_labels_are_refused():
    copies = Copies(exact=((0, 1),), near=(), too_still=())
    with pytest.raises(ValueError, match=r"a.mp4 is labelled 'x' and b.mp4 'y', but they show the same pictures"):
        check_labels_of_copies(["a.mp4", "b.mp4"], ["x", "y"], copies)
    near = Copies(exact=(), near=(NearCopy(0, 1, similarity=0.99, offset_seconds=0.0),), too_still=())
    check_labels_of_copies(["a.mp4", "b.mp4"], ["x", "y"], near)  # a warning of the audit, no refusal
