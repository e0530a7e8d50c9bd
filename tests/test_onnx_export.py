"""Exported files: PyTorch's logits for every scheme and batch, complete by themselves, nothing where that fails."""

import json
import sys
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny_run import write_tiny_run

from railsformer.cli import main
from railsformer.export import onnx_export
from railsformer.export.onnx_export import export_onnx
from railsformer.inference.model_identity import public_name
from railsformer.inference.onnx_backend import OnnxNetwork
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

SCHEMES = ("divided_space_time", "joint_space_time", "space_only", "sparse_local_global", "axial")
POINTS = {
    "version": 1,
    "temperature": 2.0,
    "labels": {"fall": {"threshold": 0.2, "target": "recall>=0.9"}},
    "split": "validation",
    "dataset_fingerprint": None,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_tiny_run(tmp_path_factory.mktemp("run"), negative_labels=["idle"])
    (folder / "operating_points.json").write_text(json.dumps(POINTS))
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    return export_onnx(run, output_dir=folder)


def _same_logits(run, folder, *, sizes):
    model = RailsformerForVideoClassification.from_pretrained(run).eval()
    network = OnnxNetwork(folder)
    config = model.config
    for size in sizes:
        clips = torch.randn(size, config.num_frames, 3, *config.image_height_width)
        with torch.inference_mode():
            expected = model(pixel_values=clips).logits
        torch.testing.assert_close(network(pixel_values=clips).logits, expected, atol=1e-4, rtol=0)
        assert expected.std() > 0.01, "logits that hardly vary would prove nothing"


def test_any_number_of_clips_gives_pytorchs_logits(run, exported):
    _same_logits(run, exported.output_dir, sizes=(1, 2, 5))


@pytest.mark.slow
@pytest.mark.parametrize("attention_type", SCHEMES)
def test_every_scheme_is_exported_where_groups_are_padded(tmp_path, attention_type):
    run = write_tiny_run(tmp_path / "run", attention_type=attention_type, num_frames=3, image_size=48)
    report = export_onnx(run, output_dir=tmp_path / "out")
    assert set(report.content["largest_difference"]) == {"1", "2", "3"}
    _same_logits(run, tmp_path / "out", sizes=(1, 4))


@pytest.mark.slow
@pytest.mark.parametrize("opset", [onnx_export.OPSETS.start, onnx_export.OPSETS.stop - 1])
def test_the_first_and_the_last_opset_are_what_the_file_says(run, tmp_path, opset):
    export_onnx(run, output_dir=tmp_path / "out", opset=opset)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert {each.domain: each.version for each in model.opset_import}[""] == opset
    assert OnnxNetwork(tmp_path / "out").opset == opset


@pytest.mark.slow
def test_a_fixed_batch_takes_any_number_of_clips_through_the_backend(run, tmp_path):
    export_onnx(run, output_dir=tmp_path / "out", batch=2)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [2, 2, 3, 32, 32]
    _same_logits(run, tmp_path / "out", sizes=(1, 2, 5))


@pytest.mark.slow
def test_weights_in_a_file_of_their_own_move_with_the_folder(run, tmp_path):
    export_onnx(run, output_dir=tmp_path / "out", external_data=True)
    (tmp_path / "out").rename(tmp_path / "moved")
    bare = onnx.load(tmp_path / "moved" / "model.onnx", load_external_data=False)
    assert any(each.data_location == onnx.TensorProto.EXTERNAL for each in bare.graph.initializer)
    _same_logits(run, tmp_path / "moved", sizes=(2,))


@pytest.mark.slow
def test_a_model_in_bfloat16_is_exported_as_float32(run, tmp_path):
    model = RailsformerForVideoClassification.from_pretrained(run, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "preprocessor_config.json").write_bytes((run / "preprocessor_config.json").read_bytes())
    export_onnx(tmp_path / "run", output_dir=tmp_path / "out")
    stored = onnx.load(tmp_path / "out" / "model.onnx").graph.initializer
    kinds = {each.data_type for each in stored}
    assert onnx.TensorProto.FLOAT in kinds
    assert onnx.TensorProto.BFLOAT16 not in kinds
    _same_logits(tmp_path / "run", tmp_path / "out", sizes=(2,))


def test_the_file_says_itself_how_it_is_used(run, exported):
    session = onnxruntime.InferenceSession(exported.output_dir / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.get_modelmeta().custom_metadata_map
    told = {key.removeprefix("railsformer."): json.loads(text) for key, text in found.items() if "railsformer" in key}
    assert told["labels"] == ["fall", "idle", "intrusion"]
    assert told["negative_labels"] == ["idle"]
    assert told["pixels"] == {"crop_px": 32, "short_side_px": 36, "mean": [0.45] * 3, "std": [0.225] * 3}
    assert told["sampling"] == {
        "num_frames": 2,
        "frame_interval": 15,
        "nominal_fps": 30.0,
        "short_video": "hold",
        "clip_sampling": "interval",
    }
    assert told["operating_points"] == POINTS
    assert told["source"] == told["config"]["_name_or_path"] == run.name
    assert told["opset"] == 18
    assert told["precision"] == "float32"
    assert told["versions"]["torch"] == version("torch")


def test_no_file_holds_a_path_of_this_machine(run, exported):
    for path in exported.output_dir.iterdir():
        content = path.read_bytes()
        for place in ("railsformer/model", "site-packages", str(run.parent), str(exported.output_dir.parent)):
            assert place.encode() not in content, f"{place} in {path.name}"
    assert exported.content["source"] == run.name


@pytest.mark.parametrize(
    ("name", "told"),
    [("HERE/yard", "yard"), ("HERE/yard/checkpoint-20", "yard/checkpoint-20"), ("me/yard", "me/yard")],
)
def test_a_public_name_is_the_folder_s_or_the_hub_id(tmp_path, name, told):
    (tmp_path / "yard" / "checkpoint-20").mkdir(parents=True)
    assert public_name(name.replace("HERE", str(tmp_path))) == told


def test_the_folder_is_a_model_folder_with_a_report(run, exported):
    folder = exported.output_dir
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "model.onnx",
        "config.json",
        "preprocessor_config.json",
        "operating_points.json",
        "export.json",
    }
    assert json.loads((folder / "operating_points.json").read_text()) == POINTS
    assert json.loads((folder / "export.json").read_text()) == exported.content
    assert exported.content["bytes"] == (folder / "model.onnx").stat().st_size
    assert max(exported.content["largest_difference"].values()) <= 1e-4


def test_a_file_that_differs_from_pytorch_is_refused_and_nothing_is_left(run, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)  # which no file meets
    with pytest.raises(ValueError, match=r"differs from PyTorch by .* nothing was written"):
        export_onnx(run, output_dir=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 11}, "opset 11 is too old: it must be 18 to 23"),
        ({"opset": 99}, "opset 99 is too new"),
        ({"batch": 0}, "batch must be at least 1, or dynamic, got 0"),
        ({"int8": True}, "--int8 needs --dataset"),
        ({"dataset": "yard"}, "add --int8 or leave it out"),
        ({"max_videos": 5}, "add --int8 or leave it out"),
        ({"int8": True, "dataset": "yard", "max_videos": 0}, "--max_videos must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_one_line_before_the_work(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        export_onnx(run, output_dir=tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_holds_something_is_refused(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="already holds something"):
        export_onnx(run, output_dir=tmp_path)


@pytest.mark.parametrize("package", ["onnxruntime", "onnx", "onnxscript"])
def test_a_missing_package_is_one_line(run, tmp_path, package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)  # as Python has it where it is not installed
    assert main(["export", "--model", str(run), "--format", "onnx", "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{package} is missing" in error
    assert "pip install 'railsformer[onnx]'" in error


@pytest.mark.slow
def test_int8_is_smaller_and_its_cost_is_measured_on_the_split(yard_dataset, tmp_path):
    from railsformer.data.clips import load_video_dataset

    dataset = load_video_dataset(yard_dataset)
    run = write_tiny_run(
        tmp_path / "run", labels=dataset.labels, hidden_size=64, num_attention_heads=2, intermediate_size=256
    )
    report = export_onnx(run, output_dir=tmp_path / "out", int8=True, dataset=yard_dataset)
    measured = report.content["int8"]
    assert measured["bytes"] < report.content["bytes"]
    assert measured["dataset"] == yard_dataset.name
    assert measured["num_videos"] == len(dataset.split("validation"))
    assert measured["dataset_fingerprint"] == dataset.fingerprint
    networks = measured["networks"]
    assert list(networks) == ["pytorch", "onnx", "int8"]
    assert networks["onnx"]["same_label"] == 1.0
    assert networks["onnx"]["largest_score_difference"] <= 1e-4
    assert networks["int8"]["largest_score_difference"] > 1e-4, "8 bits round, which float32 does not"
    assert all(one["seconds_per_clip"] > 0 and 0 <= one["accuracy"] <= 1 for one in networks.values())

    clips = torch.randn(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    small, large = OnnxNetwork(tmp_path / "out" / "model.int8.onnx"), OnnxNetwork(tmp_path / "out")
    assert (small.precision, large.precision) == ("int8", "float32")
    assert small.sampling == large.sampling
    scores = [each(clips).logits.softmax(-1).numpy() for each in (small, large)]
    np.testing.assert_allclose(*scores, atol=0.1)
    kinds = {node.op_type for node in onnx.load(tmp_path / "out" / "model.int8.onnx").graph.node}
    assert "MatMulInteger" in kinds
    assert "ConvInteger" not in kinds


def test_int8_on_labels_that_the_model_lacks_is_refused_before_the_work(run, yard_dataset, tmp_path):
    with pytest.raises(ValueError, match=r"is not known to .* name the dataset that it was trained on"):
        export_onnx(run, output_dir=tmp_path / "out", int8=True, dataset=yard_dataset)
    assert list(tmp_path.iterdir()) == []
