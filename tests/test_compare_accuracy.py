"""The comparison of accuracy on the rendered yard: one start for all, cells done once, rows that say why not."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_crossval import TINY
from tiny_run import write_tiny_run
from transformers import (
    Dinov2Config,
    Dinov2Model,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VivitConfig,
    VivitForVideoClassification,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
)

from railsformer.compare.accuracy import compare_accuracy
from railsformer.compare.comparison import ComparisonSettings, default_recipe
from railsformer.compare.other_models import build_other_model
from railsformer.compare.peer_cell import dump_clips
from railsformer.compare.peer_train import train_peer
from railsformer.compare.starts import find_start
from railsformer.compare.trained_variants import Peer, Plan, plan_variants, why_without
from railsformer.data.clips import ClipDataset, load_video_dataset
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.model.configuration_railsformer import ATTENTION_TYPES, RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import parse_settings, read_recipe
from railsformer.training.start import choose_clips

# Each cell is a process that imports torch: on a busy machine half a minute.
pytestmark = pytest.mark.timeout(1200)

SCRATCH = {"from_scratch": True}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


def _plan(**changes):
    keys = {"schemes": ATTENTION_TYPES, "positions": (), "views": (), "other_models": (), "seeds": (0,)}
    return Plan(**{**keys, **changes})


# One start


def test_every_scheme_starts_from_the_spatial_part_of_a_divided_checkpoint(tmp_path):
    divided = write_tiny_run(tmp_path / "divided", num_hidden_layers=2)
    with torch.no_grad():
        model = RailsformerForVideoClassification.from_pretrained(divided)
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
        model.save_pretrained(divided)
    start = find_start(divided, {}, folder=tmp_path / "start")
    assert "its time attention and time table are left out" in start.told
    assert not any("temporal" in name or "time_embeddings" in name for name in _weights(Path(start.keys["model"])))
    kept = _weights(divided)
    for scheme in ATTENTION_TYPES:
        found = RailsformerForVideoClassification.from_pretrained(start.keys["model"], attention_type=scheme)
        state = found.state_dict()
        qkv = "timesformer.encoder.layer.1.attention.attention.qkv.weight"
        assert torch.equal(state[qkv], kept[qkv])
        for name, value in state.items():
            if "_attention.attention.qkv.weight" in name and ".1." in name:
                assert torch.equal(value, kept[qkv])
            if "temporal_dense" in name or "time_embeddings" in name:
                assert not value.any()
    again = find_start(divided, {}, folder=tmp_path / "start")
    assert again == start
    with pytest.raises(ValueError, match=r"start was made from .*divided, now the start is .*other; take the old one"):
        find_start(write_tiny_run(tmp_path / "other"), {}, folder=tmp_path / "start")


def _weights(folder):
    return RailsformerForVideoClassification.from_pretrained(folder).state_dict()


def test_a_start_of_pictures_alone_is_taken_as_it_is_and_one_that_favours_a_scheme_is_refused(tmp_path):
    pictures = write_tiny_run(tmp_path / "pictures", attention_type="space_only")
    assert find_start(pictures, {}, folder=tmp_path / "start").keys == {"model": str(pictures)}
    for scheme in ("joint_space_time", "sparse_local_global", "axial"):
        trained = write_tiny_run(tmp_path / scheme, attention_type=scheme)
        with pytest.raises(ValueError, match=f"was trained with {scheme}, which would favour that scheme"):
            find_start(trained, {}, folder=tmp_path / "start")
    assert find_start(None, SCRATCH, folder=tmp_path / "start").is_random
    assert find_start(None, {"model": str(pictures)}, folder=tmp_path / "start").keys == {"model": str(pictures)}
    with pytest.raises(ValueError, match="needs one start for every scheme: give --model or --image_model, got none"):
        find_start(None, {}, folder=tmp_path / "start")
    with pytest.raises(FileNotFoundError, match="no model here"):
        find_start(tmp_path, {}, folder=tmp_path / "start")


# One recipe


def test_variants_differ_in_one_key_and_divided_is_trained_once(tmp_path):
    start = find_start(None, SCRATCH, folder=tmp_path / "start")
    plan = _plan(positions=("space_time", "space", "none"))
    variants = plan_variants(plan, {**SCRATCH, "learning_rate": 1e-3, "seed": 7, "dataset": "x"}, start)
    assert variants["position:space_time"] == variants["divided_space_time"]
    assert len({one.name for one in variants.values()}) == 7
    for key, variant in variants.items():
        own = {"attention_type", "position_embedding"}
        assert {name: value for name, value in variant.recipe.items() if name not in own} == {
            "learning_rate": 1e-3,
            "from_scratch": True,
        }
        assert variant.recipe["attention_type"] == (key if key in ATTENTION_TYPES else "divided_space_time")


@pytest.mark.parametrize(
    ("change", "recipe", "message"),
    [
        ({"schemes": ("joint",)}, SCRATCH, "--schemes must be of divided_space_time, .*, got 'joint'"),
        ({"seeds": ()}, SCRATCH, "a comparison needs a scheme and a seed of 0 or more, .* --seeds none"),
        ({"seeds": (1, 1)}, SCRATCH, "--seeds must differ from each other, got 1 twice"),
        ({"views": ((3, 2),)}, SCRATCH, "--views must be 1 or more clips x 1 or 3 crops, got 3 x 2"),
        ({}, {**SCRATCH, "resume": True}, "resume must not be in the recipe of a comparison"),
        ({}, {**SCRATCH, "trainable": "time"}, "trainable time .* take a recipe with trainable all, such as configs/"),
    ],
)
def test_what_would_favour_a_scheme_or_make_no_sense_is_refused(tmp_path, change, recipe, message):
    with pytest.raises(ValueError, match=message):
        plan_variants(_plan(**change), recipe, find_start(None, recipe, folder=tmp_path / "start"))


def test_the_frozen_start_takes_of_the_recipe_what_goes_with_it(tmp_path, yard_dataset):
    pictures = write_tiny_run(tmp_path / "pictures", attention_type="space_only")
    recipe = {"mixup_alpha": 0.2, "layer_decay": 0.7, "early_stopping_patience": 3, "flip": True, "use_cpu": True}
    start = find_start(pictures, recipe, folder=tmp_path / "start")
    frozen = plan_variants(_plan(seeds=(2, 3)), recipe, start)["frozen"]
    assert frozen.seeds == (2,)
    (tmp_path / "frozen.yaml").write_text(yaml.safe_dump(dict(frozen.recipe)))
    flags = ["--config", tmp_path / "frozen.yaml", "--dataset", yard_dataset, "--output_dir", tmp_path / "run"]
    settings = parse_settings([str(flag) for flag in flags])
    assert (settings.run.trainable, settings.run.cache_embeddings, settings.data.flip) == ("head", True, True)


def test_a_frozen_model_of_its_own_stands_beside_schemes_that_start_elsewhere(tmp_path):
    torch.manual_seed(0)
    image = Dinov2Config(image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    Dinov2Model(image).save_pretrained(tmp_path / "dinov2")
    pictures = write_tiny_run(tmp_path / "pictures", attention_type="space_only", num_frames=4)
    start = find_start(pictures, {}, folder=tmp_path / "start")
    plan = _plan(frozen_model=str(tmp_path / "dinov2"))
    variants = plan_variants(plan, {"learning_rate": 1e-3}, start)
    frozen = variants["frozen"]
    assert frozen.name == "frozen dinov2 + logistic regression"
    assert (frozen.recipe["image_model"], "model" in frozen.recipe) == (str(tmp_path / "dinov2"), False)
    assert (frozen.recipe["num_frames"], frozen.recipe["image_size"]) == (4, 28)  # as the start's, where it can
    assert "at 28 px, which its patches of 14 px fill" in frozen.note
    assert frozen.identity["start_weights"] != variants["space_only"].identity["start_weights"]
    assert why_without(plan, start, Peer()).keys() == why_without(_plan(), start, Peer()).keys()
    joint = write_tiny_run(tmp_path / "joint", attention_type="joint_space_time")
    with pytest.raises(ValueError, match=r"--frozen_model must look at single pictures, got .*joint_space_time"):
        plan_variants(_plan(frozen_model=str(joint)), {}, start)


def test_what_is_not_trained_has_its_reason(tmp_path):
    random = find_start(None, SCRATCH, folder=tmp_path / "start")
    found = why_without(_plan(), random, Peer())
    assert "random weights" in found["frozen start + logistic regression"]
    assert [why for name, why in found.items() if name.startswith("3D CNN")] == [
        "no --peer_python was given: a 3D CNN comes from pytorchvideo, in an environment of its own"
    ] * 2
    with_python = why_without(_plan(frozen=False), random, Peer(sys.executable))
    assert list(with_python.values()) == ["no --peer_weights given"]
    with pytest.raises(FileNotFoundError, match="--peer_weights must be a file with a state dict, got nowhere"):
        Peer(sys.executable, "nowhere")


def test_a_3d_cnn_says_what_of_the_recipe_it_does_not_have(tmp_path):
    (tmp_path / "slowfast.pyth").write_bytes(b"weights")
    recipe = {**SCRATCH, "mixup_alpha": 0.2, "early_stopping_patience": 3, "label_smoothing_factor": 0.1}
    start = find_start(None, recipe, folder=tmp_path / "start")
    variants = plan_variants(_plan(), recipe, start, peer=Peer(sys.executable, str(tmp_path / "slowfast.pyth")))
    assert variants["peer"].note.endswith("; without the recipe's mixup_alpha, early_stopping_patience")
    assert "every fourth frame" in variants["peer"].note
    given = variants["peer_weights"]
    assert given.name == "3D CNN (SlowFast R50, pytorchvideo), from slowfast.pyth"
    assert given.options["peer_weights"] == str(tmp_path / "slowfast.pyth")
    assert len(given.identity["peer_weights_hash"]) == 16


def test_the_default_recipe_favours_no_scheme_and_needs_a_start(tmp_path):
    recipe = read_recipe(default_recipe())
    with pytest.raises(ValueError, match="give --model or --image_model, got none in the recipe"):
        find_start(None, recipe, folder=tmp_path / "start")
    pictures = write_tiny_run(tmp_path / "pictures", attention_type="space_only")
    start = find_start(pictures, recipe, folder=tmp_path / "start")
    for variant in plan_variants(_plan(positions=("space",)), recipe, start).values():
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dict(variant.recipe)))
        settings = _settings(tmp_path / "recipe.yaml", "D", tmp_path / "run")
        assert (settings.run.optim, settings.data.class_balance) == ("adamw_torch", "none")
    assert ComparisonSettings(what=("accuracy",), dataset="D").config is None


# Other models through the same data path

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def _other(kind, folder):
    torch.manual_seed(0)
    if kind == "videomae":
        model = VideoMAEForVideoClassification(VideoMAEConfig(image_size=32, num_frames=4, **SIZES))
    elif kind == "vivit":
        model = VivitForVideoClassification(VivitConfig(image_size=32, num_frames=4, **SIZES))
    else:
        sizes = {key: SIZES[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
        pooler = {"num_pooler_layers": 1, "pred_hidden_size": 16, "pred_num_attention_heads": 2}
        pooler |= {"pred_num_hidden_layers": 1}
        model = VJEPA2ForVideoClassification(VJEPA2Config(crop_size=32, frames_per_clip=4, **sizes, **pooler))
    model.save_pretrained(folder)
    return folder


def _settings(recipe, dataset, output_dir, *flags):
    base = ["--config", recipe, "--dataset", dataset, "--output_dir", output_dir]
    return parse_settings([str(flag) for flag in (*base, *flags)])


@pytest.mark.parametrize("kind", ["videomae", "vivit", "vjepa2"])
def test_another_model_gets_as_many_frames_as_it_states_over_the_same_seconds(kind, recipe, yard_dataset, tmp_path):
    dataset = load_video_dataset(yard_dataset)
    settings = _settings(recipe, yard_dataset, tmp_path / "run", "--num_frames", "7", "--frame_interval", "5")
    model, pixels = build_other_model(str(_other(kind, tmp_path / kind)), dataset, settings)
    assert (model.config.num_frames, model.config.frame_interval, pixels.crop_px) == (4, 10, 32)
    clips = ClipDataset(dataset.split("test"), sampling=ClipSampling.from_config(model.config), pixels=pixels)
    out = model(clips[0]["pixel_values"][None], labels=torch.tensor([1]))
    assert out.logits.shape == (1, 4)
    assert out.loss.requires_grad
    assert [model.config.id2label[index] for index in range(4)] == list(dataset.labels)


def test_a_model_that_cannot_be_trained_so_is_named(recipe, yard_dataset, tmp_path):
    dataset = load_video_dataset(yard_dataset)
    folder = str(_other("videomae", tmp_path / "videomae"))
    settings = _settings(recipe, yard_dataset, tmp_path / "run", "--trainable", "head")
    with pytest.raises(ValueError, match="videomae is trained whole or not at all"):
        build_other_model(folder, dataset, settings)


def test_a_peer_gets_the_clips_of_the_schemes_in_their_order(recipe, yard_dataset, tmp_path):
    dataset = load_video_dataset(yard_dataset)
    settings = _settings(recipe, yard_dataset, tmp_path / "run", "--num_train_epochs", "2", "--num_frames", "4")
    settings.run.label_smoothing_factor = 0.1
    dump_clips(settings, dataset, tmp_path / "peer")
    request = json.loads((tmp_path / "peer" / "request.json").read_text())
    assert (request["epochs"], request["num_draws"], request["model"]["num_labels"]) == (2, 2, 4)
    assert (request["label_smoothing"], request["class_weights"]) == (0.1, None)
    config = RailsformerConfig(num_frames=4, frame_interval=15, image_size=32)
    pixels = PixelSettings(32, 32)
    chosen = choose_clips(settings, dataset.split("train"), config=config, pixels=pixels, batch_size=8)
    chosen.clips.set_epoch(1)
    order = list(chosen.sampler)
    dumped, labels = (np.load(tmp_path / "peer" / f"{name}-1.npy") for name in ("train", "labels"))
    assert len(dumped) == len(labels) == len(order)
    clip = chosen.clips[order[5]]
    levels = (clip["pixel_values"] * 0.225 + 0.45) * 255
    assert np.abs(dumped[5].transpose(0, 3, 1, 2) - levels.numpy()).max() < 0.51
    assert labels[5] == clip["labels"]
    assert len(np.load(tmp_path / "peer" / "clips-test.npy")) == len(dataset.split("test"))


def _dumped(folder, num_draws=2):
    """Clips of two classes, one darker than the other, as `dump_clips` leaves them."""
    rng = np.random.default_rng(0)
    for name, labels_name in (
        *((f"train-{draw}", f"labels-{draw}") for draw in range(num_draws)),
        *((f"clips-{split}", f"labels-{split}") for split in ("validation", "test")),
    ):
        labels = np.arange(16) % 2
        clips = rng.integers(0, 100, (16, 4, 8, 8, 3)) + 150 * labels[:, None, None, None, None]
        np.save(folder / f"{name}.npy", clips.astype(np.uint8))
        np.save(folder / f"{labels_name}.npy", labels.astype(np.int64))
    return {
        **{"model": {}, "epochs": 4, "batch_size": 4, "learning_rate": 0.05, "weight_decay": 0.0, "warmup": 0.1},
        **{"seed": 0, "num_threads": 1, "num_draws": num_draws},
    }


class _Mean(torch.nn.Module):
    """The smallest network that looks at a clip of shape (B, 3, T, height, width)."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def forward(self, pixels):
        return self.head(pixels.mean(dim=(2, 3, 4)))


def _mean_network(config, *, stops_after=None):
    torch.manual_seed(0)
    model = _Mean()
    calls = iter(range(stops_after or 10**6))

    def count(module, args):
        next(calls)

    model.register_forward_pre_hook(count)
    return model, (torch.zeros(1, 3, 4, 8, 8),)


def test_a_peer_learns_keeps_its_best_epoch_and_goes_on_after_an_end(tmp_path):
    ended, straight = tmp_path / "ended", tmp_path / "straight"
    for folder in (ended, straight):
        folder.mkdir()
        request = _dumped(folder)
    with pytest.raises(StopIteration):
        train_peer(request, ended, build=partial(_mean_network, stops_after=18))  # in the third of four epochs
    assert torch.load(ended / "peer_state.pt", weights_only=True)["epoch"] == 2
    for folder in (ended, straight):
        train_peer(request, folder, build=_mean_network)
    states = [torch.load(folder / "peer_state.pt", weights_only=True) for folder in (ended, straight)]
    assert [state["epoch"] for state in states] == [4, 4]
    assert all(torch.equal(value, states[1]["weights"][name]) for name, value in states[0]["weights"].items())
    scores = np.load(ended / "scores.npy")
    assert np.allclose(scores.sum(axis=1), 1)
    assert (scores.argmax(axis=1) == np.load(ended / "labels-test.npy")).all()
    assert json.loads((ended / "facts.json").read_text())["validation"]["f1_macro"] == 1


# Whole comparisons


def _compare(recipe, dataset, output_dir, **changes):
    keys = {
        "seeds": (0,),
        "schemes": ("divided_space_time", "space_only"),
        "positions": (),
        "views": (),
        "frozen": False,
        "probe": False,
    }
    return compare_accuracy(output_dir, dataset=dataset, config=recipe, **{**keys, **changes})


@pytest.fixture(scope="module")
def compared(recipe, yard_dataset, tmp_path_factory):
    """Two schemes, one seed, views and probe, finished; tests only look at it."""
    output_dir = tmp_path_factory.mktemp("compare") / "out"
    keys = {"views": ((1, 1), (2, 3)), "probe": True, "memory_gib": 30}
    sections = []
    content = _compare(recipe, yard_dataset, output_dir, on_cell=sections.append, **keys)
    _check_growth(sections)
    return output_dir, keys, content


def _check_growth(sections):
    """After each training there is what follows from those that are done."""
    assert [one["accuracy"]["num_waiting"] for one in sections] == [1, 0]
    assert [len(one["accuracy"]["pairs"]) for one in sections] == [0, 1]
    first, second = sections[0]["accuracy"]["rows"][:2]
    assert (first["not_measured"], second["not_measured"]) == (None, "still to be done")


@pytest.mark.slow
def test_rows_hold_what_the_reports_say_and_their_protocol(compared):
    output_dir, _, content = compared
    assert set(content) == {"accuracy", "views", "probe"}
    json.dumps(content)
    rows = {row["name"]: row for row in content["accuracy"]["rows"]}
    for name in ("divided_space_time", "space_only"):
        report = json.loads((output_dir / "cells/accuracy" / f"{name}-seed0" / "report/metrics.json").read_text())
        assert rows[name]["accuracy"]["values"] == [pytest.approx(report["accuracy"])]
        assert rows[name]["f1_macro"]["mean"] == pytest.approx(report["f1_macro"])
        assert (rows[name]["seeds"], rows[name]["not_measured"]) == ([0], None)
    peers = content["accuracy"]["rows"][-2:]
    assert all("no --peer_python was given" in row["not_measured"] for row in peers)
    assert [(pair["a"], pair["b"]) for pair in content["accuracy"]["pairs"]] == [("divided_space_time", "space_only")]
    for section in content.values():
        protocol = section["protocol"]
        assert protocol["split"].startswith("14 test videos of 2 groups, ")
        assert (protocol["seeds"], protocol["budget"]["epochs"]) == ([0], 1)
        assert protocol["start"] == "random weights of each seed"
        assert protocol["hardware"]["threads"] == 1
        assert protocol["settings"]["hidden_size"] == 32
        assert section["sentences"]


@pytest.mark.slow
def test_views_and_orders_are_of_the_same_weights(compared):
    _, _, content = compared
    accuracy = {row["name"]: row["accuracy"] for row in content["accuracy"]["rows"]}
    first, second = content["views"]["rows"]
    assert (first["name"], second["name"]) == ("1 clip x 1 crop", "2 clips x 3 crops")
    assert first["accuracy"] == accuracy["divided_space_time"]
    assert content["views"]["protocol"]["scheme"] == "divided_space_time"
    probe = {row["name"]: row for row in content["probe"]["rows"]}
    for name, row in probe.items():
        assert row["forwards"]["accuracy"] == accuracy[name]
        assert row["forwards"]["changed"]["mean"] == 0
        assert set(row["middle"]) == {"accuracy", "f1_macro", "changed"}
    # The mean over frames does not know their order.
    assert probe["space_only"]["shuffled"]["changed"]["mean"] == 0
    assert probe["space_only"]["reversed"]["accuracy"] == accuracy["space_only"]
    assert len(content["probe"]["pairs"]) == 6


@pytest.mark.slow
def test_what_is_finished_is_not_done_again_and_another_recipe_is_refused(compared, recipe, yard_dataset, tmp_path):
    output_dir, keys, content = compared
    written = {
        path: path.stat().st_mtime_ns for path in output_dir.rglob("*") if path.name in ("result.json", "log.txt")
    }
    assert _compare(recipe, yard_dataset, output_dir, **keys) == content
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert not list(output_dir.glob("cells/accuracy/*/run/checkpoint-*"))
    other = tmp_path / "other.yaml"
    other.write_text(f"{TINY}learning_rate: 0.5\n")
    with pytest.raises(ValueError, match=r"seed0 was trained with learning_rate None, now 0\.5; take the old setting"):
        _compare(other, yard_dataset, output_dir, **keys)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits another process")
def test_a_cell_that_fails_keeps_its_reason_and_is_tried_again_when_asked(recipe, yard_dataset, tmp_path):
    keys = {"schemes": ("space_only",), "memory_gib": 0.05}
    content = _compare(recipe, yard_dataset, tmp_path / "out", **keys)
    row = content["accuracy"]["rows"][0]
    assert row["accuracy"]["mean"] is None
    assert row["not_measured"].startswith("seed 0: ")
    result = tmp_path / "out/cells/accuracy/space_only-seed0/result.json"
    assert json.loads(result.read_text())["state"] == "failed"
    before = result.stat().st_mtime_ns
    _compare(recipe, yard_dataset, tmp_path / "out", **keys)
    assert result.stat().st_mtime_ns == before
    again = _compare(recipe, yard_dataset, tmp_path / "out", schemes=("space_only",), retry=True)
    assert again["accuracy"]["rows"][0]["not_measured"] is None
    assert again["accuracy"]["pairs"] == []


@pytest.mark.long
def test_other_models_and_peers_stand_in_rows_of_their_own(recipe, yard_dataset, tmp_path):
    base = _other("videomae", tmp_path / "videomae")
    keys = {"schemes": ("space_only",), "other_models": (str(base),), "peer_python": sys.executable}
    content = _compare(recipe, yard_dataset, tmp_path / "out", **keys)
    _, other, peer, with_weights = content["accuracy"]["rows"]
    assert with_weights["not_measured"] == "no --peer_weights given"
    assert other["name"] == "videomae (other model)"
    assert (other["not_measured"], other["seeds"]) == (None, [0])
    assert 0 <= other["accuracy"]["mean"] <= 1
    assert "cannot build pytorchvideo's SlowFast" in peer["not_measured"]
    assert [(pair["a"], pair["b"]) for pair in content["accuracy"]["pairs"]] == [("space_only", other["name"])]


@pytest.mark.long
def test_a_killed_comparison_goes_on_from_the_newest_checkpoint(recipe, yard_dataset, tmp_path):
    output_dir = tmp_path / "out"
    slow = tmp_path / "slow.yaml"
    slow.write_text(f"{TINY.replace('num_train_epochs: 1', 'num_train_epochs: 40')}save_total_limit: 2\n")
    code = (
        "from railsformer.compare.accuracy import compare_accuracy; "
        f"compare_accuracy({str(output_dir)!r}, dataset={str(yard_dataset)!r}, config={str(slow)!r}, seeds=(0,), "
        "schemes=('space_only',), positions=(), views=(), frozen=False, probe=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    run = output_dir / "cells/accuracy/space_only-seed0/run"
    while not list(run.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(150) == 128 + signal.SIGTERM
    assert not (run / "run.json").exists()
    content = _compare(slow, yard_dataset, output_dir, schemes=("space_only",))
    assert content["accuracy"]["rows"][0]["not_measured"] is None
    assert "going on from" in (run.parent / "log.txt").read_text()
