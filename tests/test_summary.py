"""A run on one page: from a real run, made again, and what it says where something is not known."""

import json
import shutil
import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib.image import imread

from railsformer.training.arguments import parse_settings
from railsformer.training.recorder import EnergyMeter, RunRecorder
from railsformer.training.summary import write_summary
from railsformer.training.trainer import train

TINY = ["--from_scratch", "--hidden_size", "32", "--num_hidden_layers", "2", "--num_attention_heads", "2"]
TINY += ["--intermediate_size", "64", "--patch_size", "16", "--image_size", "48", "--num_frames", "4"]
TINY += ["--frame_interval", "15", "--use_cpu", "true", "--disable_tqdm", "true", "--learning_rate", "1e-3"]
TINY += ["--num_threads", "1", "--dataloader_num_workers", "0", "--per_device_train_batch_size", "8"]
COST = {
    "first_step": 0, "last_step": 6, "seconds": 12.0, "processes": 1, "device": "cpu",
    "peak_rss_bytes": 3 * 2**29, "peak_cuda_bytes": None, "energy_joules": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(yard_dataset, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("summary") / "first | run"
    flags = ["--dataset", str(yard_dataset), "--output_dir", str(run_dir), "--num_train_epochs", "2"]
    train(parse_settings([*TINY, *flags, "--logging_steps", "1"]))
    return run_dir


@pytest.fixture
def run_dir(finished, tmp_path):
    """The files that a summary is made from, to be changed."""
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("trainer_state.json", "run.json", "train_config.yaml"):
        shutil.copy(finished / name, copy)
    return copy


def _change(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def test_the_page_tells_the_kept_epoch_data_versions_and_recipe(run_dir):
    text = write_summary(run_dir).read_text()
    facts = json.loads((run_dir / "run.json").read_text())
    state = json.loads((run_dir / "trainer_state.json").read_text())
    assert f"(step {state['best_global_step']})" in text
    assert f"macro F1 {state['best_metric']:.3f}" in text
    assert facts["dataset_fingerprint"] in text
    assert facts["split_kind"] in text
    assert f"torch {facts['versions']['torch']}" in text
    assert (run_dir / "train_config.yaml").read_text().rstrip() in text
    assert str(run_dir.parent) not in text


def test_curves_are_a_png_and_an_svg(run_dir):
    text = write_summary(run_dir).read_text()
    assert "(curves.png)" in text
    height, width = imread(run_dir / "curves.png").shape[:2]
    assert min(height, width) > 800
    assert ElementTree.parse(run_dir / "curves.svg").getroot().tag.endswith("svg")


def test_making_it_again_changes_nothing(run_dir):
    write_summary(run_dir)
    first = {path.name: path.read_bytes() for path in run_dir.iterdir()}
    write_summary(run_dir)
    assert {path.name: path.read_bytes() for path in run_dir.iterdir()} == first


def test_figures_by_class_are_those_of_the_kept_epoch(run_dir):
    path = run_dir / "trainer_state.json"
    state = json.loads(path.read_text())
    evaluations = [log for log in state["log_history"] if "eval_loss" in log]
    for number, log in enumerate(evaluations, start=1):
        for label in ("Bucket-Worker", "Other"):
            figures = {"precision": 0.1, "recall": 0.2, "f1": 0.3}
            log |= {f"eval_{kind}/{label}": value * number for kind, value in figures.items()}
            log[f"eval_support/{label}"] = 7.0
        for kind in ("precision", "recall", "f1", "support"):
            log.pop(f"eval_{kind}/Cabin-Worker", None)
    path.write_text(json.dumps(state))
    _change(run_dir / "run.json", validation={"epoch": evaluations[0]["epoch"]})
    text = write_summary(run_dir).read_text()
    assert "| Bucket-Worker | 0.100 | 0.200 | 0.300 | 7 |" in text
    assert "| Cabin-Worker | – | – | – | – |" in text


def test_cost_is_told_and_energy_only_where_it_was_measured(run_dir):
    _change(run_dir / "run.json", cost=COST, pace={"clips_per_second": 4.0, "data_wait_share": 0.125})
    text = write_summary(run_dir).read_text()
    assert "| time | 12 s with evaluation and saving |" in text
    assert "| training | 4 clips/s, 12.5% of the time waiting for clips |" in text
    assert "| peak memory | 1.50 GiB of the main process, loader apart |" in text
    assert "| energy | not measured |" in text
    _change(run_dir / "run.json", cost=COST | {"first_step": 2, "energy_joules": {"cpu": 7200.0}})
    text = write_summary(run_dir).read_text()
    assert "of steps 3 to 6 after a resume" in text
    assert "CPU 2.00 Wh" in text


def test_lost_clips_are_listed(run_dir):
    _change(run_dir / "run.json", lost_clips=[{"file": "/data/a|b.mp4", "count": 3, "reason": "no key frame"}])
    text = write_summary(run_dir).read_text()
    assert "3 clips of 1 files could not be read" in text
    assert "| a\\|b.mp4 | 3 | no key frame |" in text
    _change(run_dir / "run.json", lost_clips=[])
    assert "every training clip could be read" in write_summary(run_dir).read_text()


def test_a_run_without_evaluation_or_logs_has_a_summary_too(run_dir):
    _change(run_dir / "trainer_state.json", log_history=[])
    _change(run_dir / "run.json", validation={})
    text = write_summary(run_dir).read_text()
    assert "No evaluation on validation" in text
    assert "curves.png" not in text


def test_a_head_on_cached_embeddings_has_a_summary_too(yard_dataset, tmp_path):
    flags = ["--dataset", str(yard_dataset), "--output_dir", str(tmp_path / "run")]
    train(parse_settings([*TINY, *flags, "--trainable", "head", "--cache_embeddings"]))
    text = (tmp_path / "run" / "summary.md").read_text()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert f"Kept: the head of regularisation {facts['head']['regularisation']:g}, on a frozen trunk." in text
    assert f"| Other | {facts['validation']['precision/Other']:.3f} |" in text
    assert f"| {facts['head']['regularisation']:g} (kept) | {facts['validation']['f1_macro']:.3f} |" in text
    assert "s with embedding and fitting" in text
    assert "curves.png" not in text


@pytest.mark.parametrize("name", ["trainer_state.json", "run.json", "train_config.yaml"])
def test_a_missing_or_damaged_file_is_named(run_dir, name):
    (run_dir / name).write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        write_summary(run_dir)
    (run_dir / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        write_summary(run_dir)


def test_the_recorder_measures_a_run(yard_dataset, tmp_path):
    from railsformer.data.clips import load_video_dataset
    from railsformer.training.start import build_model, choose_pixels
    from railsformer.training.trainer import build_trainer

    flags = ["--dataset", str(yard_dataset), "--output_dir", str(tmp_path / "run"), "--max_steps", "2"]
    flags += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    settings = parse_settings([*TINY, *flags])
    dataset = load_video_dataset(yard_dataset)
    model = build_model(settings.model, dataset)
    trainer = build_trainer(settings, dataset, model, choose_pixels(settings.model, settings.data, model.config))
    recorder = RunRecorder()
    trainer.add_callback(recorder)
    trainer.train()
    assert recorder.record.keys() == COST.keys()
    assert (recorder.record["first_step"], recorder.record["last_step"]) == (0, 2)
    assert recorder.record["seconds"] > 0
    assert recorder.record["peak_rss_bytes"] > 100 * 2**20
    assert recorder.record["peak_cuda_bytes"] is None


def test_energy_is_read_from_packages_and_survives_a_wrap(tmp_path):
    for zone, value in (("intel-rapl:0", 9_000_000), ("intel-rapl:0:0", 5), ("intel-rapl:1", 1_000_000)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{value}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("10000000\n")
    meter = EnergyMeter(powercap=tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1000000\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("4000000\n")
    assert meter.read() == {"cpu": pytest.approx(5.0)}
    assert EnergyMeter(powercap=tmp_path / "absent").read() == {}
