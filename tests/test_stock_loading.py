"""What we save, loaded where railsformer cannot be imported: stock transformers alone must give our logits."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_modeling import clips_for, tiny_model
from transformers import TimesformerForVideoClassification
from videos import write_video

from railsformer.data.transforms import PixelSettings
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

LABELS = {"num_labels": 2, "id2label": {0: "Bucket-Worker", 1: "Other"}, "label2id": {"Bucket-Worker": 0, "Other": 1}}
STOCK = {
    "divided": {"attention_type": "divided_space_time"},
    "joint": {"attention_type": "joint_space_time"},
    "space": {"position_embedding": "space"},
    "none": {"position_embedding": "none"},
}
REMOTE = {
    "space_only": {"attention_type": "space_only"},
    "sparse": {"attention_type": "sparse_local_global"},
    "axial": {"attention_type": "axial"},
    "oblong": {"attention_type": "divided_space_time", "image_size": [12, 20]},
}

# Runs without railsformer: `import railsformer` raises there.
READER = """
import json, sys
sys.modules["railsformer"] = None
from pathlib import Path
import av, torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForVideoClassification, pipeline

folder = Path(sys.argv[1])
result = {"logits": {}, "classes": {}, "refusals": {}}
for name in sys.argv[2].split(","):
    remote = name in sys.argv[3].split(",")
    if remote:
        try:
            AutoModelForVideoClassification.from_pretrained(folder / name)
        except ValueError as error:
            result["refusals"][name] = f"{type(error).__name__}: {error}"
    model = AutoModelForVideoClassification.from_pretrained(folder / name, trust_remote_code=remote).eval()
    pixels = load_file(folder / f"{name}.safetensors")["pixel_values"]
    with torch.no_grad():
        result["logits"][name] = model(pixels).logits.tolist()
    result["classes"][name] = type(model).__module__.split(".")[0] + "." + type(model).__name__
    if name == "axial":
        changes = {"num_labels": 3, "num_frames": 6, "image_size": [8, 16]}
        changed = AutoModelForVideoClassification.from_pretrained(folder / name, trust_remote_code=True, **changes)
        with torch.no_grad():
            result["changed"] = list(changed(torch.zeros(1, 6, 3, 8, 16)).logits.shape)
        again = folder / "axial_again"
        model.save_pretrained(again)
        model = AutoModelForVideoClassification.from_pretrained(again, trust_remote_code=True).eval()
        with torch.no_grad():
            result["logits"]["axial_again"] = model(pixels).logits.tolist()

with av.open(str(folder / "clip.mp4")) as container:
    frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
processor = AutoImageProcessor.from_pretrained(folder / "divided")
result["pixel_values"] = processor(frames[:3], return_tensors="pt")["pixel_values"].tolist()
classify = pipeline("video-classification", model=str(folder / "divided"))
result["pipeline"] = classify(str(folder / "clip.mp4"), function_to_apply="none")
try:
    import railsformer
except ImportError:
    result["alone"] = True
print()  # transformers asks its question on this line
print(json.dumps(result))
"""


def save_all(folder, cases):
    """Save a model a case with pixels to try it on; return our logits."""
    logits = {}
    for name, changes in cases.items():
        model = tiny_model(**LABELS, **changes)
        model.save_pretrained(folder / name)
        pixels = clips_for(model.config)
        save_file({"pixel_values": pixels}, folder / f"{name}.safetensors")
        with torch.no_grad():
            logits[name] = model(pixels).logits
    return logits


@pytest.fixture(scope="module")
def read_elsewhere(tmp_path_factory):
    """Our logits, and what a process without railsformer makes of the same folders."""
    folder = tmp_path_factory.mktemp("saved")
    ours = save_all(folder, {**STOCK, **REMOTE})
    PixelSettings(crop_px=12, short_side_px=16).save_pretrained(folder / "divided")
    # The pipeline takes the first frames of the file, one after the other.
    write_video(folder / "clip.mp4", num_frames=3)
    command = [sys.executable, "-c", READER, str(folder), ",".join(ours), ",".join(REMOTE)]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=_environment(folder), timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, ours, json.loads(done.stdout.splitlines()[-1])


def _environment(folder):
    return {**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("name", STOCK)
def test_stock_gives_our_logits(read_elsewhere, name):
    _, ours, theirs = read_elsewhere
    assert theirs["alone"]
    assert theirs["classes"][name] == "transformers.TimesformerForVideoClassification"
    torch.testing.assert_close(torch.tensor(theirs["logits"][name]), ours[name], rtol=0, atol=1e-5)


def test_stock_processor_and_pipeline_give_our_logits(read_elsewhere):
    folder, _, theirs = read_elsewhere
    model = RailsformerForVideoClassification.from_pretrained(folder / "divided")
    with torch.no_grad():
        expected = model(torch.tensor(theirs["pixel_values"])).logits[0]
    scores = {row["label"]: row["score"] for row in theirs["pipeline"]}
    assert set(scores) == {"Bucket-Worker", "Other"}
    assert [scores["Bucket-Worker"], scores["Other"]] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", [*REMOTE, "axial_again"])
def test_other_schemes_load_with_the_code_they_carry(read_elsewhere, name):
    _, ours, theirs = read_elsewhere
    if name in REMOTE:
        assert theirs["classes"][name] == "transformers_modules.RailsformerForVideoClassification"
    expected = ours[name.removesuffix("_again")]
    torch.testing.assert_close(torch.tensor(theirs["logits"][name]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", REMOTE)
def test_stock_refuses_other_schemes_unless_trusted(read_elsewhere, name):
    refusal = read_elsewhere[2]["refusals"][name]
    assert refusal.startswith("ValueError")
    assert "custom code" in refusal
    assert "trust_remote_code=True" in refusal


def test_the_code_that_is_carried_takes_keywords_through_the_auto_class(read_elsewhere):
    assert read_elsewhere[2]["changed"] == [1, 3]


@pytest.mark.parametrize("choice", ["none", "space"])
@pytest.mark.parametrize("way", ["load_state_dict", "file"])
def test_stock_gives_our_logits_whatever_was_loaded_into_tables_that_are_left_out(choice, way, tmp_path, caplog):
    model, other = tiny_model(position_embedding=choice), tiny_model()
    names = [f"timesformer.embeddings.{name}_embeddings" for name in ("position", "time")][choice == "space" :]
    if way == "load_state_dict":
        model.load_state_dict(other.state_dict())
    else:  # as stock leaves it, which trains these tables
        model.save_pretrained(tmp_path)
        tables = {name: other.state_dict()[name] for name in names}
        save_file(
            {**load_file(tmp_path / "model.safetensors"), **tables}, tmp_path / "model.safetensors", {"format": "pt"}
        )
        model = RailsformerForVideoClassification.from_pretrained(tmp_path)
        assert all(f"unused   {name}" in caplog.text for name in names)
        assert not any(model.state_dict()[name].any() for name in names)
    model.save_pretrained(tmp_path)
    stock = TimesformerForVideoClassification.from_pretrained(tmp_path).eval()
    pixels = clips_for(model.config)
    with torch.no_grad():
        torch.testing.assert_close(stock(pixels).logits, model(pixels).logits, rtol=0, atol=1e-5)
