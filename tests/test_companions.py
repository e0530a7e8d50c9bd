"""The tables beside a dataset, edited by hand."""

import json

import pytest

from railsformer.data.analysis.companions import read_companions
from railsformer.data.analysis.report import analyze_dataset


@pytest.mark.parametrize(
    ("audit", "part"),
    [
        ({"exact_copies": 3}, "exact_copies"),
        ({"near_copies": {"pairs": 5}}, r"near_copies\.pairs"),
        ({"left_out": {}}, "left_out"),
    ],
)
def test_an_edited_audit_is_named(tmp_path, audit, part):
    (tmp_path / "audit.json").write_text(json.dumps(audit), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"audit\.json is damaged \({part} is not what build writes\)"):
        read_companions(tmp_path)


def test_the_report_stays_out_of_the_dataset(tmp_path):
    with pytest.raises(ValueError, match="lies inside the dataset"):
        analyze_dataset(tmp_path, output_dir=tmp_path / "report")
