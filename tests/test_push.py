"""Pushing: what goes up comes back bit-equal through the real clients, private by default; refusals are one line."""

import hashlib
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from railsformer.hub.push import push, push_metric

LABELS = ["Track-Excavator", "Bucket-Worker", "Other"]
PUSH = """
import json, sys
from railsformer.hub.push import push
print(json.dumps(push(sys.argv[1], sys.argv[2], public=sys.argv[3:] == ["--public"])))
"""
# Stock libraries only: railsformer cannot be imported in these processes.
STOCK = "import json, sys; sys.modules['railsformer'] = None\n"
DOWNLOAD = (
    STOCK
    + """
import hashlib, pathlib
from huggingface_hub import snapshot_download
folder = pathlib.Path(snapshot_download(sys.argv[1], repo_type=sys.argv[2]))
files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
print(json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}))
"""
)
CONFIG = {"model_type": "timesformer", "num_frames": 2}


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder with all that training leaves behind; the weights are any bytes."""
    folder = tmp_path / "run"
    contents = {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": np.random.default_rng(0).bytes(4096),
        "preprocessor_config.json": b"{}",
        "README.md": b"---\nlicense: apache-2.0\n---\n# A run\n",
        "divided.yaml": b"seed: 1\n",
        "operating_points.json": b"{}",
        "training_args.bin": b"a pickle",
        "trainer_state.json": b"{}",
        "checkpoint-10/model.safetensors": b"older weights",
        "checkpoint-10/config.json": b"{}",
        "checkpoint-10/optimizer.pt": b"a pickle",
        "runs/events.out": b"log",
    }
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_video(path: Path, *, number: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for i in range(4):
            picture = np.full((32, 32, 3), 20 * i + number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """A dataset in the layout of `build`, by hand: no split has every class."""
    folder = tmp_path / "yard"
    splits = {
        "train": ["Track-Excavator", "Bucket-Worker"],
        "validation": ["Other"],
        "test": ["Bucket-Worker", "Other"],
    }
    for split, labels in splits.items():
        (folder / "data" / split).mkdir(parents=True)
        rows = ["file_name,label,group"]
        for i, label in enumerate(labels):
            write_video(folder / "data" / split / f"{i}.mp4", number=10 * i)
            rows.append(f"{i}.mp4,{label},camera_{split}")
        (folder / "data" / split / "metadata.csv").write_text("\n".join(rows) + "\n")
    files = "\n".join(f"  - split: {split}\n    path: data/{split}/**" for split in splits)
    names = "\n".join(f"          '{i}': {label}" for i, label in enumerate(LABELS))
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}\n  features:\n"
        "  - name: video\n    dtype: video\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
        f"{names}\n  - name: group\n    dtype: string\n---\n# Yard\n"
    )
    return folder


# -- round trips


def test_model_files_go_up_private_and_come_back_bit_equal(hub, run_folder):
    assert hub.run(PUSH, run_folder, "user/run") == f"{hub.url}/user/run"
    assert hub.repos["model", "user/run"].private
    expected = {
        name: (run_folder / name).read_bytes()
        for name in (
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
            "README.md",
            "divided.yaml",
            "operating_points.json",
        )
    }
    assert hub.files("model", "user/run") == expected
    assert hub.run(DOWNLOAD, "user/run", "model") == digests(expected)


def test_pushing_again_replaces_what_went(hub, run_folder):
    hub.run(PUSH, run_folder, "user/run")
    (run_folder / "model.safetensors").rename(run_folder / "model-00001-of-00001.safetensors")
    (run_folder / "operating_points.json").unlink()
    (run_folder / "README.md").write_text("---\nlicense: mit\n---\n# Again\n")
    hub.run(PUSH, run_folder, "user/run")
    files = hub.files("model", "user/run")
    assert "model-00001-of-00001.safetensors" in files
    assert "model.safetensors" not in files
    assert "operating_points.json" not in files
    assert b"# Again" in files["README.md"]
    commits = len(hub.repos["model", "user/run"].commits)
    hub.run(PUSH, run_folder, "user/run")
    assert len(hub.repos["model", "user/run"].commits) == commits  # nothing changed, nothing committed


def test_public_must_be_asked_for(hub, run_folder):
    hub.run(PUSH, run_folder, "user/open", "--public")
    assert not hub.repos["model", "user/open"].private


def test_dataset_files_go_up_private_and_old_clips_go(hub, dataset_folder):
    assert hub.run(PUSH, dataset_folder, "user/yard") == f"{hub.url}/datasets/user/yard"
    assert hub.repos["dataset", "user/yard"].private
    local = {
        p.relative_to(dataset_folder).as_posix(): p.read_bytes() for p in dataset_folder.rglob("*") if p.is_file()
    }
    assert hub.files("dataset", "user/yard") == local
    (dataset_folder / "data/test/1.mp4").unlink()
    (dataset_folder / "data/test/metadata.csv").write_text("file_name,label,group\n0.mp4,Bucket-Worker,camera_test\n")
    hub.run(PUSH, dataset_folder, "user/yard")
    assert set(hub.files("dataset", "user/yard")) == set(local) - {"data/test/1.mp4"}


@pytest.mark.slow
def test_stock_datasets_reads_a_pushed_dataset(hub, dataset_folder):
    hub.run(PUSH, dataset_folder, "user/yard")
    code = (
        STOCK
        + """
import hashlib
from datasets import Video, load_dataset
answer = {}
for split, rows in load_dataset("user/yard").items():
    names = rows.features["label"].names
    rows = rows.cast_column("video", Video(decode=False))
    found = []
    for row in rows:
        video = row["video"]
        data = video["bytes"] or open(video["path"], "rb").read()
        found.append([names[row["label"]], row["group"], hashlib.sha256(data).hexdigest()])
    answer[split] = {"names": names, "rows": found}
print(json.dumps(answer))
"""
    )
    answer = hub.run(code)
    digest = {name: value for name, value in digests(hub.files("dataset", "user/yard")).items() if "mp4" in name}
    assert {split: answer[split]["names"] for split in answer} == dict.fromkeys(
        ("train", "validation", "test"), LABELS
    )
    assert answer["train"]["rows"] == [
        ["Track-Excavator", "camera_train", digest["data/train/0.mp4"]],
        ["Bucket-Worker", "camera_train", digest["data/train/1.mp4"]],
    ]
    assert answer["validation"]["rows"] == [["Other", "camera_validation", digest["data/validation/0.mp4"]]]
    assert [row[0] for row in answer["test"]["rows"]] == ["Bucket-Worker", "Other"]


@pytest.mark.slow
def test_stock_transformers_loads_a_pushed_model(hub, tmp_path):
    import torch
    from transformers import TimesformerConfig, TimesformerForVideoClassification, VideoMAEImageProcessor

    names = {0: "Bucket-Worker", 1: "Other"}
    config = TimesformerConfig(
        image_size=32,
        patch_size=16,
        num_frames=2,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    torch.manual_seed(0)
    model = TimesformerForVideoClassification(config).eval()
    torch.nn.init.normal_(model.timesformer.embeddings.time_embeddings)
    model.save_pretrained(tmp_path)
    VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    hub.run(PUSH, tmp_path, "user/tiny")
    code = (
        STOCK
        + """
import torch
from transformers import AutoImageProcessor, AutoModelForVideoClassification
model = AutoModelForVideoClassification.from_pretrained("user/tiny").eval()
processor = AutoImageProcessor.from_pretrained("user/tiny")
pixels = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(1, 2, 3, 32, 32)
with torch.no_grad():
    logits = model(pixels).logits
torch.save(model.state_dict(), sys.argv[1])
print(json.dumps([logits.tolist(), model.config.id2label, processor.crop_size["height"]]))
"""
    )
    logits, labels, size = hub.run(code, tmp_path / "back.pt")
    pixels = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(1, 2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(logits), model(pixels).logits, rtol=1e-5, atol=1e-6)
    back, here = torch.load(tmp_path / "back.pt", weights_only=True), model.state_dict()
    assert back.keys() == here.keys()
    assert all(torch.equal(back[name], here[name]) for name in here)
    assert labels == {"0": "Bucket-Worker", "1": "Other"}
    assert size == 32


@pytest.mark.parametrize(("word", "script"), [("metric", "metrics.py"), ("score-metric", "score_metrics.py")])
def test_metric_goes_up_as_a_space_under_the_name_that_evaluate_asks_for(hub, word, script):
    assert hub.run(PUSH, word, "user/yard-metric") == f"{hub.url}/spaces/user/yard-metric"
    space = hub.repos["space", "user/yard-metric"]
    import railsformer.evaluation

    source = Path(railsformer.evaluation.__file__).with_name(script).read_bytes()
    assert space.private
    assert space.files["yard-metric.py"] == source
    assert b"sdk: static" in space.files["README.md"]


@pytest.mark.slow
def test_stock_evaluate_loads_both_pushed_metrics(hub):
    from railsformer.evaluation.metrics import VideoClassificationMetrics
    from railsformer.evaluation.score_metrics import VideoScoreMetrics

    code = (
        STOCK
        + """
import evaluate
metric = evaluate.load(sys.argv[1])
print(json.dumps(metric.compute(**json.loads(sys.argv[2]))))
"""
    )
    hub.run(PUSH, "metric", "user/yard-metric")
    videos = {"predictions": [0, 1, 1, 0], "references": [0, 1, 0, 0], "label_names": LABELS}
    figures = hub.run(code, "user/yard-metric", json.dumps(videos))
    assert figures["accuracy"] == 0.75
    assert figures == VideoClassificationMetrics().compute(**videos)
    hub.run(PUSH, "score-metric", "user/yard-scores")
    rows = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.5, 0.3, 0.2]]
    scored = videos | {"predictions": rows}
    figures = hub.run(code, "user/yard-scores", json.dumps(scored))
    assert figures["top_k"]["2"] == 1.0
    assert figures == VideoScoreMetrics().compute(**scored)


# -- refusals


@pytest.mark.parametrize("repo_id", ["run", "user/run/more", "user/--x", "us er/run", "user/run.git", ""])
def test_a_malformed_name_is_refused(run_folder, repo_id):
    with pytest.raises(ValueError, match="user/name"):
        push(run_folder, repo_id)


def test_a_metric_name_with_a_dot_is_refused():
    with pytest.raises(ValueError, match=r"must hold no dot, got 'user/metric\.v2'"):
        push_metric("user/metric.v2")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; give a run folder"):
        push(tmp_path / "nowhere", "user/run")


def test_neither_model_nor_dataset_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"neither a model .* nor a dataset"):
        push(tmp_path, "user/run")


def test_a_model_without_weights_is_refused(run_folder):
    (run_folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors weights"):
        push(run_folder, "user/run")


def test_a_model_without_its_processor_is_refused(run_folder):
    (run_folder / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no preprocessor_config\.json"):
        push(run_folder, "user/run")


def test_a_dataset_card_that_cannot_be_read_is_named(dataset_folder):
    (dataset_folder / "README.md").write_text("---\nconfigs: [\n---\n")
    with pytest.raises(ValueError, match=r"README\.md: its YAML cannot be read"):
        push(dataset_folder, "user/yard")


REFUSED = """
import json, sys
from railsformer.hub.push import push
try:
    push(sys.argv[1], sys.argv[2], public=sys.argv[3:] == ["--public"])
except ValueError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.parametrize(
    ("repo_id", "env", "message"),
    [
        (
            "user/run",
            {"HF_TOKEN": ""},
            "cannot push to user/run: no token; log in with `hf auth login`, or set HF_TOKEN",
        ),
        ("user/run", {"HF_HUB_OFFLINE": "1"}, "cannot push to user/run: offline mode is on; unset HF_HUB_OFFLINE"),
        ("user/run", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached"),
        ("user/run", {"HF_TOKEN": "hf_wrong"}, "the token is not valid"),
        ("stranger/run", {}, "the token may not write there"),
    ],
    ids=["no token", "offline", "unreachable", "bad token", "foreign namespace"],
)
def test_what_the_hub_refuses_is_one_line(hub, run_folder, repo_id, env, message):
    told = hub.run(REFUSED, run_folder, repo_id, env=env)
    assert message in told
    assert "\n" not in told
    assert not hub.repos


def test_a_card_the_hub_refuses_is_one_line(hub, run_folder):
    (run_folder / "README.md").write_text("---\nlicense: my very own\n---\n# A run\n")
    told = hub.run(REFUSED, run_folder, "user/run")
    assert told.startswith('cannot push to user/run: README.md: Invalid metadata: - "license" must be one of')
    assert "\n" not in told
    assert not hub.repos  # refused before anything was made


def test_nothing_private_goes_to_a_public_repository(hub, run_folder):
    from hub_server import Repo

    hub.repos["model", "user/run"] = Repo("model", "user/run", private=False)
    told = hub.run(REFUSED, run_folder, "user/run")
    assert "it exists and is public, but this push is private" in told
    assert hub.files("model", "user/run") == {}
    hub.repos["model", "user/run"].private = True
    assert "it exists and is private, but this push is public" in hub.run(REFUSED, run_folder, "user/run", "--public")
    assert hub.files("model", "user/run") == {}
