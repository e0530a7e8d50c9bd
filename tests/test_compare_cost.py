"""What networks cost: by arithmetic as by torch, measured in processes of their own, beside the paper."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from railsformer.compare import peer_cost
from railsformer.compare.analytic import analytic_cost
from railsformer.compare.cost import measure_cost
from railsformer.compare.cost_figures import draw_cost_figures
from railsformer.compare.curves import cost_curves, largest_that_fits
from railsformer.compare.measuring import run_cell
from railsformer.compare.peers import cost_command, why_no_peer
from railsformer.compare.report import add_parts
from railsformer.compare.variants import cost_variants, differences_from_paper
from railsformer.model.configuration_railsformer import ATTENTION_TYPES, RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.model.token_grouping import token_groups
from railsformer.training.plan_step import count_macs

GIB = 2**30
SMALL = {
    "hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4, "num_labels": 5,
}  # fmt: skip
SHAPES = [(4, 64), (5, 48), (8, 80)]  # the last two leave sparse groups of unequal size
REQUEST = {"num_threads": 1, "limit_bytes": None, "device": "cpu"}


def small_config(scheme, frames, side, **changes):
    sizes = {**SMALL, **changes}
    return RailsformerConfig(attention_type=scheme, num_frames=frames, image_size=side, **sizes)


def on_meta(config):
    with torch.device("meta"):
        return RailsformerForVideoClassification(config)


def base_variants():
    return [variant for variant in cost_variants() if variant.family == "base"]


@pytest.mark.parametrize("scheme", ATTENTION_TYPES)
@pytest.mark.parametrize(("frames", "side"), SHAPES)
def test_arithmetic_is_what_torch_counts(scheme, frames, side):
    config = small_config(scheme, frames, side)
    cost = analytic_cost(config, num_frames=frames, image_size=side)
    assert cost.macs == count_macs(on_meta(config))
    assert cost.parameters == sum(parameter.numel() for parameter in on_meta(config).parameters())


@pytest.mark.parametrize("position_embedding", ["space", "none"])
def test_tables_that_are_left_out_are_no_parameters(position_embedding):
    config = small_config("divided_space_time", 4, 64, position_embedding=position_embedding)
    parameters = sum(parameter.numel() for parameter in on_meta(config).parameters())
    assert analytic_cost(config, num_frames=4, image_size=64).parameters == parameters


@pytest.mark.parametrize("scheme", ATTENTION_TYPES)
@pytest.mark.parametrize(("frames", "side"), SHAPES)
def test_comparisons_are_the_tokens_of_a_patchs_groups(scheme, frames, side):
    config = small_config(scheme, frames, side)
    compared = 0.0
    for table in token_groups(scheme, frames, *config.grid):
        has_cls = int((table[:, 0] == 0).all())
        tokens = (table >= 0).sum(dim=1)
        patches = tokens - has_cls
        compared += float((tokens * patches).sum() / patches.sum())
    counted = analytic_cost(config, num_frames=frames, image_size=side).comparisons_a_patch
    assert counted == pytest.approx(compared)


def _saved_bytes(config, implementation):
    """All that autograd keeps of a forward pass beside the parameters, each storage once."""
    model = RailsformerForVideoClassification(config).train()
    model.set_attn_implementation(implementation)
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage
        return tensor

    height, width = config.image_height_width
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(torch.zeros(1, config.num_frames, 3, height, width), labels=torch.tensor([1])).loss
    total = sum(storage.nbytes() for storage in kept.values())
    del loss
    return total


@pytest.mark.parametrize("scheme", ATTENTION_TYPES)
def test_arithmetic_of_what_backward_keeps_is_what_autograd_keeps(scheme):
    config = small_config(scheme, 8, 96)
    cost = analytic_cost(config, num_frames=8, image_size=96)
    assert _saved_bytes(config, "sdpa") == pytest.approx(cost.saved_bytes, rel=0.02)
    with_matrices = cost.saved_bytes + cost.kept_matrix_bytes
    assert _saved_bytes(config, "eager") == pytest.approx(with_matrices, rel=0.03)


def test_base_parameters_are_the_papers_to_the_integer():
    for variant in base_variants():
        parameters = sum(parameter.numel() for parameter in on_meta(variant.model_config()).parameters())
        assert parameters == variant.paper["parameters"], variant.name


def test_macs_of_the_papers_clips_are_its_flops_within_half_a_percent():
    told = 0
    for variant in cost_variants():
        if variant.is_peer or "macs_a_view" not in variant.paper:
            continue
        config = variant.model_config()
        size = {"num_frames": config.num_frames, "image_size": variant.config["image_size"]}
        macs = analytic_cost(config, **size).macs
        assert macs == pytest.approx(variant.paper["macs_a_view"], rel=5e-3), variant.name
        told += 1
    assert told == 5


def test_every_scheme_at_every_clip_and_both_3d_cnns_have_a_row():
    variants = cost_variants()
    assert len(variants) == 17
    assert len({variant.folder_name for variant in variants}) == 17
    measured = {variant.family: [] for variant in variants}
    for variant in variants:
        if variant.measured:
            measured[variant.family].append(variant.measured)
    both = ("forward", "training")
    assert measured == {"base": [both] * 5, "HR": [("forward",)], "L": [("forward",)], "3d_cnn": [both] * 2}
    assert all(variant.not_measured for variant in variants if variant.measured != both)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (100, 100, None),
        (101.9e9, 100e9, None),  # rounded by the paper
        (102.1e9, 100e9, True),
        (97.0e9, 100e9, True),
        (101, 100, False),  # an exact count: told, though not marked
        (103, 100, True),
        (None, 100, None),
    ],
)
def test_differences_over_two_percent_are_marked(ours, theirs, expected):
    found = differences_from_paper({"macs_a_view": ours, "paper": {"macs_a_view": theirs}})
    assert [one.marked for one in found] == ([] if expected is None else [expected])
    assert all(one.why for one in found)


def test_divided_says_why_it_compares_one_token_less_than_the_paper():
    divided = next(variant for variant in base_variants() if variant.scheme == "divided_space_time")
    compared = analytic_cost(divided.model_config(), num_frames=8, image_size=224).comparisons_a_patch
    row = {"paper": {"comparisons_a_patch": divided.paper["comparisons_a_patch"]}, "comparisons_a_patch": compared}
    (difference,) = differences_from_paper(row)
    assert (difference.ours, difference.paper, difference.marked) == (205, 206, False)
    assert "CLS" in difference.why


@pytest.mark.parametrize("materialised", [True, False])
@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize(("axis", "step"), [("frames", 1), ("crop", 16)])
def test_a_limit_fits_and_the_next_size_does_not(axis, step, mode, materialised):
    config = RailsformerConfig(attention_type="joint_space_time")
    most = largest_that_fits(config, axis=axis, mode=mode, limit_bytes=16 * GIB, materialised=materialised)

    def needed(point):
        size = {"num_frames": point, "image_size": 224} if axis == "frames" else {"num_frames": 8, "image_size": point}
        cost = analytic_cost(config, **size)
        return getattr(cost, f"{mode}_bytes")(materialised=materialised)

    assert needed(most) <= 16 * GIB < needed(most + step)


def test_nothing_fits_where_not_even_the_weights_do():
    config = RailsformerConfig()
    fits = largest_that_fits(config, axis="frames", mode="forward", limit_bytes=1e6, materialised=False)
    assert fits is None


def test_joint_grows_with_the_square_and_divided_nearly_linearly():
    curves = cost_curves(free_bytes=8 * GIB)
    for axis in ("frames", "crop"):
        growth = curves[axis]["growth"]
        assert growth["joint_space_time"]["kept_matrix_bytes"] == pytest.approx(2.0, abs=0.01)
        assert growth["divided_space_time"]["macs"] < 1.15 < 1.5 < growth["joint_space_time"]["macs"]


def test_without_matrices_joint_trains_several_times_longer_clips_in_the_same_memory():
    limits = cost_curves(free_bytes=8 * GIB)["limits"]
    joint = {
        limit["memory"]: (limit["materialised"], limit["sdpa"])
        for limit in limits
        if (limit["scheme"], limit["mode"], limit["axis"]) == ("joint_space_time", "training", "frames")
    }
    assert list(joint) == ["free on this machine", "16 GiB", "24 GiB", "80 GiB"]
    # The paper's own figure: joint attention ran out of memory at 32 frames, or 448 px, on its cards.
    assert joint["24 GiB"][0] < 32 < joint["80 GiB"][0]
    assert all(without > 4 * with_matrices for with_matrices, without in joint.values())


def test_curves_pass_through_what_is_counted_at_the_papers_clips():
    curves = cost_curves(free_bytes=8 * GIB)
    for variant in cost_variants():
        if variant.family == "base" or variant.name == "L 96x224, divided_space_time":
            place = curves["frames"]["points"].index(variant.config["num_frames"])
            drawn = curves["frames"]["schemes"][variant.scheme]["macs"][place]
            assert drawn == count_macs(on_meta(variant.model_config())), variant.name


def test_figures_are_drawn_from_what_json_kept():
    curves = json.loads(json.dumps(cost_curves(free_bytes=8 * GIB)))
    row = {"scheme": "joint_space_time", "num_frames": 8, "image_size": 224, "training_peak_bytes": 2 * GIB}
    drawings = draw_cost_figures(curves, [row, {**row, "training_peak_bytes": None}])
    assert [drawing.name for drawing in drawings] == ["cost_work", "cost_comparisons", "cost_matrices", "cost_memory"]
    for drawing in drawings:
        assert drawing.png.startswith(b"\x89PNG")
        assert drawing.svg
        assert drawing.phone_svg
        assert "joint" in drawing.alt


# Cells: real processes, of a few lines.


def program(*lines):
    return [sys.executable, "-c", "import json, os, sys, time\n" + "\n".join(lines)]


def told(**answer):
    return f"sys.stdin.readline(); print('noise'); print({json.dumps(json.dumps(answer))})"


def counting(folder, *lines):
    """A program that leaves a mark each time it runs."""
    return program(f"open({str(folder / 'runs')!r}, 'a').write('x')", *lines)


def runs(folder):
    return len((folder / "runs").read_text())


def test_a_cell_that_is_there_is_not_done_again(tmp_path):
    command = counting(tmp_path, told(seconds=[1.0], peak_bytes=5))
    first = run_cell(tmp_path / "cell", command, REQUEST, identity={"v": 1}, retry=False)
    again = run_cell(tmp_path / "cell", command, {**REQUEST, "limit_bytes": 7}, identity={"v": 1}, retry=True)
    assert runs(tmp_path) == 1
    assert first == again
    assert (first["seconds"], first["peak_bytes"]) == ([1.0], 5)


@pytest.mark.parametrize(
    ("request_", "identity"),
    [({**REQUEST, "num_threads": 2}, {"v": 1}), (REQUEST, {"v": 2})],
    ids=["request", "machine"],
)
def test_a_cell_of_another_question_or_machine_is_done_again(tmp_path, request_, identity):
    command = counting(tmp_path, told(seconds=[1.0]))
    run_cell(tmp_path / "cell", command, REQUEST, identity={"v": 1}, retry=False)
    run_cell(tmp_path / "cell", command, request_, identity=identity, retry=False)
    assert runs(tmp_path) == 2


def test_a_cell_that_failed_keeps_its_reason_until_it_is_tried_again(tmp_path):
    broken = counting(tmp_path, "raise ValueError('no such network')")
    failed = run_cell(tmp_path / "cell", broken, REQUEST, identity={}, retry=False)
    assert failed["failed"] == "the measuring process ended with code 1 (ValueError: no such network)"
    works = counting(tmp_path, told(seconds=[1.0]))
    assert run_cell(tmp_path / "cell", works, REQUEST, identity={}, retry=False) == failed
    assert "failed" not in run_cell(tmp_path / "cell", works, REQUEST, identity={}, retry=True)
    assert runs(tmp_path) == 2


def test_a_damaged_result_is_measured_again(tmp_path):
    command = counting(tmp_path, told(seconds=[1.0]))
    run_cell(tmp_path / "cell", command, REQUEST, identity={}, retry=False)
    (tmp_path / "cell" / "result.json").write_text("{")
    assert run_cell(tmp_path / "cell", command, REQUEST, identity={}, retry=False)["seconds"] == [1.0]
    assert runs(tmp_path) == 2


@pytest.mark.parametrize(
    "line",
    [
        told(overflow=True),
        "os.kill(os.getpid(), 9)",
        "raise MemoryError",
        "raise RuntimeError('DefaultCPUAllocator: can\\'t allocate memory: you tried to allocate 7 bytes')",
    ],
    ids=["said", "killed", "python", "torch"],
)
def test_the_end_of_memory_is_recorded_as_such(tmp_path, line):
    request = {**REQUEST, "limit_bytes": 3 * GIB}
    answer = run_cell(tmp_path / "cell", program(line), request, identity={}, retry=False)
    assert answer["overflow"]
    assert answer["failed"] == "out of memory under 3 GiB"


def test_a_program_that_is_not_there_is_a_reason(tmp_path):
    answer = run_cell(tmp_path / "cell", ["/no/such/python"], REQUEST, identity={}, retry=False)
    assert answer["failed"] == "/no/such/python cannot be started (No such file or directory)"
    assert not (tmp_path / "cell" / "result.json").exists()


def test_a_peer_without_its_library_says_so(tmp_path):
    request = {
        **REQUEST,
        "mode": "count",
        "config": {"builder": "i3d_8x8_r50", "num_frames": 8, "image_size": 64, "num_labels": 4},
    }
    answer = run_cell(tmp_path / "cell", cost_command(sys.executable), request, identity={}, retry=False)
    assert "pytorchvideo" in answer["failed"]
    assert "--peer_python" in answer["failed"]


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 15)", "os._exit(130)"])
def test_a_measurement_that_was_told_to_end_is_made_again(tmp_path, end):
    answer = run_cell(tmp_path / "cell", program(end), REQUEST, identity={}, retry=False)
    assert answer["failed"].startswith("the measuring process ended ")
    assert not (tmp_path / "cell" / "result.json").exists()


def test_a_library_that_was_missing_is_looked_for_again(tmp_path):
    lacks = counting(tmp_path, told(error="No module named pytorchvideo", missing_library=True))
    assert "failed" in run_cell(tmp_path / "cell", lacks, REQUEST, identity={}, retry=False)
    works = counting(tmp_path, told(seconds=[1.0], versions={"torch": "2.14.1"}))
    answer = run_cell(tmp_path / "cell", works, REQUEST, identity={}, retry=False)
    assert (answer["seconds"], answer["versions"]) == ([1.0], {"torch": "2.14.1"})
    assert run_cell(tmp_path / "cell", works, REQUEST, identity={}, retry=False) == answer
    assert runs(tmp_path) == 2


def test_a_peak_that_cannot_be_reset_is_that_since_the_process_began(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr(peer_cost, "open", refuse, raising=False)
    peer_cost._reset_peak(torch.device("cpu"))


def test_no_peer_is_a_reason_with_the_fix(tmp_path):
    assert "--peer_python" in why_no_peer(None)
    assert "no such file" in why_no_peer(tmp_path / "python")
    assert why_no_peer(sys.executable) is None


def wait_until(true, seconds=100):
    """A machine may be busy; what is waited for comes, or the test fails."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_gone(process):
    """Whether it has ended; it may do so between two questions."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_a_cell_goes_when_whoever_asked_is_gone(tmp_path, sign):
    pid_file = tmp_path / "pid"
    work = f"lambda request: (open({str(pid_file)!r}, 'w').write(str(os.getpid())), time.sleep(300))"
    cell = f"import os, time\nfrom railsformer.compare.peer_cost import serve\nserve({work})"
    ask = "import sys\nfrom pathlib import Path\nfrom railsformer.compare.measuring import run_cell\n"
    ask += f"run_cell(Path({str(tmp_path / 'cell')!r}), [sys.executable, '-c', {cell!r}], {REQUEST!r}, "
    ask += "identity={}, retry=False)"
    asker = subprocess.Popen([sys.executable, "-c", ask], cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
    wait_until(lambda: pid_file.is_file() and pid_file.read_text())
    child = psutil.Process(int(pid_file.read_text()))
    asker.send_signal(sign)
    asker.wait()
    wait_until(lambda: is_gone(child))
    assert not (tmp_path / "cell" / "result.json").exists()


@pytest.mark.parametrize("mode", ["forward", "training"])
def test_the_ruler_times_each_repeat_of_any_network(mode):
    """Of two pathways, one of which writes into its list as pytorchvideo's do."""

    class TwoPathways(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 3)

        def forward(self, pathways):
            for place, each in enumerate(pathways):
                pathways[place] = self.layer(each)
            return sum(pathways)

    request = {"mode": mode, "repeats": 3, "device": "cpu"}
    answer = peer_cost.measure_passes(lambda: (TwoPathways(), ([torch.zeros(1, 4), torch.ones(1, 4)],)), request)
    assert len(answer["seconds"]) == 3
    assert all(seconds > 0 for seconds in answer["seconds"])
    assert answer["peak_bytes"] >= 0


@pytest.mark.long  # peaks hold what else a build of torch loads, and what a busy machine takes back
def test_a_peak_counts_the_weights_and_what_training_adds(tmp_path):
    """A layer of 64 MiB: in training also its gradient, momentum, and two copies that SGD's first step works on."""
    script = "import torch\nfrom railsformer.compare.peer_cost import serve, measure_passes\n"
    script += "serve(lambda request: measure_passes(lambda: (torch.nn.Linear(4096, 4096), (torch.ones(1, 4096),)), "
    script += "request))"
    peaks = {}
    for mode in ("forward", "training"):
        request = {**REQUEST, "mode": mode, "repeats": 1}
        answer = run_cell(tmp_path / mode, [sys.executable, "-c", script], request, identity={}, retry=False)
        peaks[mode] = answer["peak_bytes"] / 2**20
    assert peaks["forward"] >= 64  # and what libraries load at their first call, which differs from build to build
    assert 2 * 64 <= peaks["training"] - peaks["forward"] < 5 * 64


@pytest.mark.slow
def test_a_network_that_overflows_its_limit_is_out_of_memory(tmp_path):
    script = "import torch\nfrom railsformer.compare.peer_cost import serve\n"
    script += "serve(lambda request: {'count': torch.ones(2**30).numel()})"
    for limit, overflows in ((2 * GIB, True), (8 * GIB, False)):
        request = {**REQUEST, "limit_bytes": limit}
        answer = run_cell(tmp_path / str(limit), [sys.executable, "-c", script], request, identity={}, retry=False)
        assert ("failed" in answer) == overflows
    assert not answer.get("overflow")


@pytest.mark.parametrize("name", ["memory_gib", "num_threads"])
def test_limits_must_be_positive(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got -1"):
        measure_cost(tmp_path, quick=True, **{name: -1})


@pytest.mark.slow
def test_the_whole_comparison_in_small(tmp_path, monkeypatch):
    monkeypatch.setattr("railsformer.compare.cost._MEASURED_SECONDS", 0.0)
    growing = []
    section = measure_cost(tmp_path, memory_gib=6, quick=True, num_threads=1, on_row=growing.append)
    assert [len(one["rows"]) for one in growing] == list(range(1, 18))
    assert [one["num_waiting"] for one in growing] == list(range(16, -1, -1))
    add_parts(tmp_path / "report", {"cost": growing[2]})
    text = (tmp_path / "report" / "compare.md").read_text(encoding="utf-8")
    assert "14 cells are still to be done: the same command goes on." in text
    assert json.loads(json.dumps(section)) == section
    rows = {row["name"]: row for row in section["rows"]}
    assert len(rows) == 17
    measured = rows["base 4x32, divided_space_time"]
    assert measured["not_measured"] is None
    assert measured["forward_seconds"] > 0
    assert measured["training_step_seconds"] > 0
    assert measured["training_peak_bytes"] > 0
    assert "peak_bytes" not in measured
    assert measured["macs_all_views"] == 3 * measured["macs_a_view"]
    assert rows["HR 4x64, axial"]["parameters"]
    assert rows["HR 4x64, axial"]["not_measured"].startswith("counted only")
    assert rows["I3D 8x8 R50"]["parameters"] is None
    assert "--peer_python" in rows["I3D 8x8 R50"]["not_measured"]
    assert {file["file"] for file in section["figures"]} == {path.name for path in (tmp_path / "figures").iterdir()}
    assert section["protocol"]["hardware"]["threads"] == 1
    again = measure_cost(tmp_path, memory_gib=6, quick=True, num_threads=1)
    assert again["rows"] == section["rows"]


@pytest.mark.long
def test_3d_cnns_are_the_papers_in_their_own_environment(tmp_path):
    """Set RAILSFORMER_PEER_PYTHON to the Python of an environment with torch, torchvision and pytorchvideo."""
    peer = os.environ.get("RAILSFORMER_PEER_PYTHON")
    if not peer:
        pytest.skip("no environment with pytorchvideo is named")
    for variant in cost_variants():
        if variant.is_peer:
            request = {**REQUEST, "mode": "count", "config": dict(variant.config)}
            answer = run_cell(tmp_path / variant.folder_name, cost_command(peer), request, identity={}, retry=False)
            row = {
                "parameters": answer["parameters"], "macs_all_views": answer["macs"] * variant.num_views,
                "paper": variant.paper,
            }  # fmt: skip
            assert differences_from_paper(row) == []
            small = {**dict(variant.config), "image_size": 64}
            for mode in ("forward", "training"):
                request = {**REQUEST, "mode": mode, "config": small, "repeats": 1}
                folder = tmp_path / f"{variant.folder_name}_{mode}"
                answer = run_cell(folder, cost_command(peer), request, identity={}, retry=False)
                assert len(answer["seconds"]) == 1
