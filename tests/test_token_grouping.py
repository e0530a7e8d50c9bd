"""Token groups: literal tables, and every scheme against the words of the contract."""

import math

import pytest
import torch

from railsformer.model.token_grouping import STEPS, TokenGrouping, token_groups

# Patch-major: token 1 + (h * W + w) * T + t. These are T=2, H=1, W=3: h0w0 = 1 2, h0w1 = 3 4, h0w2 = 5 6.
TIME = [[1, 2], [3, 4], [5, 6]]
SPACE = [[0, 1, 3, 5], [0, 2, 4, 6]]
JOINT = [[0, 1, 2, 3, 4, 5, 6]]
LOCAL = [[0, 1, 2, 3, 4], [0, 5, 6, -1, -1]]
GLOBAL = [[0, 1, 5], [0, 3, -1], [0, 2, 6], [0, 4, -1]]
WIDTH = [[0, 1, 3, 5], [0, 2, 4, 6]]
HEIGHT = [[0, 1], [0, 3], [0, 5], [0, 2], [0, 4], [0, 6]]


@pytest.mark.parametrize(
    ("attention_type", "expected"),
    [
        ("divided_space_time", [TIME, SPACE]),
        ("joint_space_time", [JOINT]),
        ("space_only", [[[0, 1, 2, 3]]]),
        ("sparse_local_global", [LOCAL, GLOBAL]),
        ("axial", [TIME, WIDTH, HEIGHT]),
    ],
)
def test_literal_tables(attention_type, expected):
    tables = token_groups(attention_type, 2, 1, 3)
    assert [table.tolist() for table in tables] == expected


def test_two_by_two_grid():
    local, everywhere = token_groups("sparse_local_global", 1, 4, 4)
    assert local[:2].tolist() == [[0, 1, 2, 5, 6], [0, 3, 4, 7, 8]]  # upper left, upper right quadrant
    assert everywhere[:2].tolist() == [[0, 1, 3, 9, 11], [0, 2, 4, 10, 12]]


# What two patches must share to attend to each other, from the table of schemes in the contract.
SHARED = {
    "time": lambda h, w, t, size: (h, w),
    "space": lambda h, w, t, size: t,
    "joint": lambda h, w, t, size: 0,
    "local": lambda h, w, t, size: (h < math.ceil(size[0] / 2), w < math.ceil(size[1] / 2)),
    "global": lambda h, w, t, size: (t % 2, h % 2, w % 2),
    "width": lambda h, w, t, size: (t, h),
    "height": lambda h, w, t, size: (t, w),
}
STEPS_WITH_CLS = {
    "divided_space_time": [("time", False), ("space", True)],
    "joint_space_time": [("joint", True)],
    "sparse_local_global": [("local", True), ("global", True)],
    "axial": [("time", False), ("width", True), ("height", True)],
}


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 1), (3, 5, 2), (3, 5, 3), (4, 6, 2), (2, 1, 5), (7, 7, 4)])
@pytest.mark.parametrize("attention_type", STEPS_WITH_CLS)
def test_groups_are_those_of_the_contract(attention_type, size):
    height, width, frames = size
    tables = token_groups(attention_type, frames, height, width)
    assert len(tables) == len(STEPS_WITH_CLS[attention_type])
    for table, (name, with_cls) in zip(tables, STEPS_WITH_CLS[attention_type], strict=True):
        expected: dict = {}
        for h in range(height):
            for w in range(width):
                for t in range(frames):
                    token = 1 + (h * width + w) * frames + t
                    expected.setdefault(SHARED[name](h, w, t, size), set()).add(token)
        rows = [[token for token in row if token >= 0] for row in table.tolist()]
        assert all((row[0] == 0) == with_cls for row in rows)
        assert {frozenset(row) - {0} for row in rows} == {frozenset(tokens) for tokens in expected.values()}
        assert sum(len(row) - with_cls for row in rows) == height * width * frames  # every patch once, no empty group


@pytest.mark.parametrize("attention_type", STEPS)
def test_join_undoes_cut(attention_type):
    patches = torch.randn(2, 3 * 5 * 3, 4)
    for step in STEPS[attention_type]:
        grouping = TokenGrouping(step, (3, 5, 3))
        groups = grouping.cut(patches)
        assert groups.shape == (2, grouping.num_groups, grouping.group_size, 4)
        torch.testing.assert_close(grouping.join(groups), patches, rtol=0, atol=0)


def test_refuses_an_unknown_scheme():
    with pytest.raises(ValueError, match=r"attention_type must be one of divided_space_time.*got 'diagonal'"):
        token_groups("diagonal", 8, 14, 14)
