"""--backend onnx: the scores of PyTorch from predict, watch and Python, and from a script that has no PyTorch."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_run import write_tiny_run
from videos import write_video

from railsformer import Predictor
from railsformer.cli import main
from railsformer.export.onnx_export import export_onnx
from railsformer.inference.onnx_backend import OnnxNetwork
from railsformer.inference.timeline import read_timeline

DOCS = Path(__file__).parent.parent / "docs" / "export.md"
POINTS = {
    "version": 1,
    "temperature": 2.0,
    "labels": {"fall": {"threshold": 0.2, "target": "recall>=0.9"}},
    "split": "validation",
    "dataset_fingerprint": None,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_tiny_run(tmp_path_factory.mktemp("run"), negative_labels=["idle"], num_frames=4)
    (folder / "operating_points.json").write_text(json.dumps(POINTS))
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export_onnx(run, output_dir=tmp_path_factory.mktemp("exported") / "model").output_dir


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "gate.mp4", num_frames=60, fps=10, width=96, height=64)


@pytest.mark.parametrize(("num_clips", "num_crops"), [(1, 1), (3, 3)])
def test_predictions_are_pytorchs(run, exported, video, num_clips, num_crops):
    ours = Predictor.from_pretrained(exported, backend="onnx")
    theirs = Predictor.from_pretrained(run, device="cpu")
    found, expected = (each(video, num_clips=num_clips, num_crops=num_crops) for each in (ours, theirs))
    assert found.scores == pytest.approx(expected.scores, abs=1e-4)
    assert (found.label, found.decisions) == (expected.label, expected.decisions)
    assert (ours.labels, ours.negative_labels, ours.temperature) == (theirs.labels, theirs.negative_labels, 2.0)
    assert (ours.sampling, ours.pixels, ours.thresholds) == (theirs.sampling, theirs.pixels, theirs.thresholds)


def test_the_backend_has_no_weights_in_pytorch(exported):
    network = Predictor.from_pretrained(exported, backend="onnx").model
    assert isinstance(network, OnnxNetwork)
    assert not isinstance(network, torch.nn.Module)


def test_the_file_alone_is_enough(run, exported, video, tmp_path):
    shutil.copyfile(exported / "model.onnx", tmp_path / "alone.onnx")
    alone = Predictor.from_pretrained(tmp_path / "alone.onnx", backend="onnx")
    expected = Predictor.from_pretrained(run, device="cpu")(video)
    assert alone(video).scores == pytest.approx(expected.scores, abs=1e-4)
    assert alone(video).decisions == expected.decisions


def test_operating_points_beside_the_file_go_before_those_in_it(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "model")
    newer = POINTS | {"temperature": 3.0}
    (tmp_path / "model" / "operating_points.json").write_text(json.dumps(newer))
    assert Predictor.from_pretrained(tmp_path / "model", backend="onnx").temperature == 3.0


def test_a_run_folder_may_hold_its_file_in_a_folder_of_its_own(run, exported, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "onnx").mkdir()
    shutil.copyfile(exported / "model.onnx", tmp_path / "run" / "onnx" / "model.onnx")
    found = Predictor.from_pretrained(tmp_path / "run", backend="onnx")
    assert found.name == str(tmp_path / "run" / "onnx" / "model.onnx")
    recalibrated = POINTS | {"temperature": 3.0}  # what `evaluate` writes, it writes into the run
    (tmp_path / "run" / "operating_points.json").write_text(json.dumps(recalibrated))
    assert Predictor.from_pretrained(tmp_path / "run", backend="onnx").temperature == 3.0
    assert not isinstance(Predictor.from_pretrained(tmp_path / "run", device="cpu").model, OnnxNetwork)


def test_the_verb_predict_gives_pytorchs_rows(run, exported, video, capsys):
    rows = []
    for model, backend in ((run, "torch"), (exported, "onnx")):
        assert main(["predict", "--model", str(model), "--backend", backend, "--num_workers", "0", str(video)]) == 0
        rows.append(json.loads(capsys.readouterr().out))
    assert rows[1]["scores"] == pytest.approx(rows[0]["scores"], abs=1e-4)
    assert rows[1]["decisions"] == rows[0]["decisions"]


def test_the_verb_watch_gives_pytorchs_timeline(run, exported, video, tmp_path):
    for model, backend in ((run, "torch"), (exported, "onnx")):
        command = ["watch", str(video), "--model", str(model), "--backend", backend, "--window_seconds", "2"]
        assert main([*command, "--output_dir", str(tmp_path / backend)]) == 0
    expected, found = (read_timeline(tmp_path / name) for name in ("torch", "onnx"))
    assert len(found) == len(expected) > 2
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_the_script_in_the_docs_needs_no_pytorch_and_gives_the_same_scores(run, exported, video, tmp_path):
    script = re.search(r"```python\n(# classify\.py.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL).group(1)
    block = "import sys\nsys.modules['torch'] = sys.modules['railsformer'] = sys.modules['transformers'] = None\n"
    (tmp_path / "classify.py").write_text(block + script)
    command = [sys.executable, str(tmp_path / "classify.py"), str(exported / "model.onnx"), str(video)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {name: float(score) for name, score in (line.rsplit(" ", 1) for line in done.stdout.splitlines())}
    expected = Predictor.from_pretrained(run, device="cpu")(video)
    assert found == pytest.approx(expected.scores, abs=1e-4)


def _bare_file(path):
    """An ONNX model that knows nothing of us."""
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    opsets = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [out]), opset_imports=opsets)
    model.ir_version = 10
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("none", "no model.onnx in it"),
        ("missing file", "no such ONNX file"),
        ("damaged", "cannot be opened by onnxruntime"),
        ("foreign", "was not written by railsformer export"),
    ],
)
def test_what_is_no_exported_model_is_one_line(run, video, tmp_path, capsys, kind, message):
    model = {"none": run, "missing file": tmp_path / "gone.onnx"}.get(kind, tmp_path / "a.onnx")
    if kind == "damaged":
        model.write_bytes(b"no model at all")
    elif kind == "foreign":
        _bare_file(model)
    assert main(["predict", "--model", str(model), "--backend", "onnx", str(video)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


_NO_WEIGHTS = "is an exported model without PyTorch weights; name the run it was exported from"


@pytest.mark.parametrize("place", ["", "model.onnx"])
@pytest.mark.parametrize("verb", ["predict", "watch", "explain", "positions", "export", "evaluate", "train"])
def test_an_exported_model_without_the_flag_is_one_line(exported, video, yard_dataset, tmp_path, capsys, verb, place):
    out, model = str(tmp_path / "out"), exported / place
    words = {
        "predict": [str(video)],
        "watch": [str(video), "--output_dir", out],
        "explain": [str(video), "--output_dir", out],
        "positions": ["--positions", "--output_dir", out],
        "export": ["--format", "onnx", "--output_dir", out],
        "evaluate": ["--dataset", str(yard_dataset), "--output_dir", out],
        "train": ["--dataset", str(yard_dataset), "--output_dir", out],
    }[verb]
    verb = "explain" if verb == "positions" else verb
    assert main([verb, "--model", str(model), *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{model} {_NO_WEIGHTS}" in error
    assert ("add --backend onnx" in error) == (verb in ("predict", "watch"))


def test_an_exported_model_without_operating_points_is_told_how_to_get_some(exported, video, tmp_path, caplog):
    shutil.copyfile(exported / "model.onnx", tmp_path / "model.onnx")
    _change_metadata(tmp_path / "model.onnx", "operating_points", "null")
    words = ["--model", str(tmp_path), "--backend", "onnx"]
    advice = "evaluate the run and export it again, or put its operating_points.json beside the file"
    assert main(["predict", *words, "--num_workers", "0", str(video)]) == 0
    assert advice in caplog.text
    caplog.clear()
    assert main(["watch", *words, str(video), "--window_seconds", "2", "--output_dir", str(tmp_path / "w")]) == 0
    assert advice in caplog.text


def _change_metadata(path, key, text):
    model = onnx.load(path)
    told = {each.key: each.value for each in model.metadata_props} | {f"railsformer.{key}": text}
    onnx.helper.set_model_props(model, told)
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("config", '"none"', "its config .* is damaged"),
        ("config", '{"num_frames": "many"}', "its config .* is damaged"),
        ("config", "{}", "its metadata tells"),
        ("opset", '"x"', "its opset .* is damaged"),
        ("sampling", '{"frames": 2}', "its sampling .* is damaged"),
        ("sampling", "{", "its sampling .* is damaged"),
        ("pixels", "{}", "its pixels .* is damaged"),
        ("pixels", '{"crop_px": 32, "short_side_px": 36, "mean": "x", "std": [1]}', "its pixels .* is damaged"),
        ("operating_points", "[]", "operating points in it are not right .operating_points.json must be of version 1"),
        ("operating_points", '{"version": 1}', "operating points in it are not right"),
    ],
)
def test_damaged_metadata_is_one_line_that_names_the_file(exported, video, tmp_path, capsys, key, text, message):
    path = tmp_path / "damaged.onnx"
    shutil.copyfile(exported / "model.onnx", path)
    _change_metadata(path, key, text)
    assert main(["predict", "--model", str(path), "--backend", "onnx", str(video)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error
    assert re.search(message, error), error


def test_a_missing_onnxruntime_is_one_line(exported, video, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["predict", "--model", str(exported), "--backend", "onnx", str(video)]) == 2
    assert "pip install 'railsformer[onnx]'" in capsys.readouterr().err


def test_clips_of_another_shape_training_and_other_devices_are_refused(exported):
    network = OnnxNetwork(exported)
    with pytest.raises(ValueError, match=r"must be of shape \(batch, 4, 3, 32, 32\) .* got \(1, 8, 3, 32, 32\)"):
        network(torch.zeros(1, 8, 3, 32, 32))
    with pytest.raises(ValueError, match="cannot be trained"):
        network.train()
    with pytest.raises(ValueError, match="device must be cpu with backend onnx, got 'meta'"):
        Predictor.from_pretrained(exported, backend="onnx", device="meta")
    with pytest.raises(ValueError, match="backend must be one of torch, onnx, got 'tensorrt'"):
        Predictor.from_pretrained(exported, backend="tensorrt")
    assert network(torch.zeros(0, 4, 3, 32, 32)).logits.shape == (0, 3)
