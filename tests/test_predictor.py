"""Predictions from Python: the same as evaluate's, calibrated, with decisions."""

import json
import shutil

import numpy as np
import pytest
import torch
from tiny_run import write_tiny_run
from videos import number_picture, write_video

from railsformer import Predictor
from railsformer.data.clips import load_video_dataset
from railsformer.data.video import VideoDecodeError
from railsformer.evaluation.calibration import apply_temperature
from railsformer.evaluation.report import evaluate_model
from railsformer.evaluation.report_pages.predictions import read_predictions
from railsformer.inference.regions import Region

LABELS = ("fall", "idle", "intrusion")
POINTS = {
    "version": 1,
    "temperature": 2.0,
    "labels": {"fall": {"threshold": 0.2, "target": "recall>=0.9"}, "idle": {"threshold": 1.0, "target": "recall>=1"}},
    "split": "validation",
    "dataset_fingerprint": None,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_tiny_run(tmp_path_factory.mktemp("run"), labels=LABELS)


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor.from_pretrained(run, device="cpu")


@pytest.fixture
def calibrated_run(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "operating_points.json").write_text(json.dumps(POINTS))
    return tmp_path / "run"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", num_frames=40, fps=10)


@pytest.mark.parametrize(("clip_sampling", "num_clips", "num_crops"), [("interval", 1, 1), ("segments", 2, 3)])
def test_scores_are_those_of_evaluate(yard_dataset, tmp_path, clip_sampling, num_clips, num_crops):
    names = load_video_dataset(yard_dataset).labels
    run = write_tiny_run(tmp_path / "run", labels=names, clip_sampling=clip_sampling, negative_labels=[names[-1]])
    before = Predictor.from_pretrained(run, device="cpu")
    report = evaluate_model(
        run,
        dataset=yard_dataset,
        output_dir=tmp_path / "report",
        num_clips=num_clips,
        num_crops=num_crops,
        num_workers=0,
        # A random model has no run.json to say that the dataset is its own; those of several views stay in the report.
        recalibrate=num_clips * num_crops == 1,
    )
    shutil.copy(report.output_dir / "operating_points.json", run)
    told = read_predictions(report.output_dir / "predictions.csv")
    files = [video["path"] for video in load_video_dataset(yard_dataset).split("test")["video"]]
    scores = [found.scores for found in before(files, num_clips=num_clips, num_crops=num_crops)]
    found = np.array([[each[name] for name in told.label_names] for each in scores])
    np.testing.assert_allclose(found, told.scores, atol=1e-5)

    after = Predictor.from_pretrained(run, device="cpu")
    assert (before.thresholds, before.temperature) == (None, 1.0)
    assert after.thresholds
    prediction = after(files[0], num_clips=num_clips, num_crops=num_crops)
    expected = apply_temperature(told.scores[:1], after.temperature)[0]
    np.testing.assert_allclose([prediction.scores[name] for name in told.label_names], expected, atol=1e-4)
    for name, is_on in prediction.decisions.items():
        assert is_on == (prediction.scores[name] >= after.thresholds[name])


def test_a_prediction_says_what_was_looked_at(predictor, video):
    found = predictor(video)
    assert list(found.scores) == sorted(found.scores, key=lambda name: -found.scores[name])
    assert found.label == next(iter(found.scores))
    assert sum(found.scores.values()) == pytest.approx(1)
    assert found.decisions is None
    assert found.duration_seconds == pytest.approx(4.0)
    assert found.clips_seconds == ((1.75, 2.25),)
    assert list(predictor(video, top_k=1).scores) == [found.label]


def test_files_are_batched_and_come_in_their_order(predictor, video, tmp_path):
    other = write_video(tmp_path / "other.mp4", num_frames=30, fps=10, first_number=90)
    together = predictor([video, other, video])
    for found, path in zip(together, (video, other, video), strict=True):
        assert found.scores == pytest.approx(predictor(path).scores, abs=1e-6)
    assert predictor([]) == []


def test_frames_with_times_are_a_video(predictor):
    frames = np.stack([number_picture(number) for number in range(40)])
    found = predictor(frames, seconds=np.arange(40) / 10)
    assert found.duration_seconds == pytest.approx(4.0)
    assert found.clips_seconds == ((1.75, 2.25),)
    shown = predictor(frames[[17, 22]])  # the pictures on screen at these instants, as the clip itself
    assert found.scores == pytest.approx(shown.scores, abs=1e-6)
    assert shown.clips_seconds == ()
    assert shown.duration_seconds is None


def test_frames_without_times_must_be_a_clip(predictor):
    frames = np.stack([number_picture(number) for number in range(5)])
    with pytest.raises(ValueError, match=r"one clip of 2, got 5 frames"):
        predictor(frames)
    with pytest.raises(ValueError, match="must be uint8 RGB"):
        predictor(frames.astype(np.float32))
    with pytest.raises(ValueError, match="ascending"):
        predictor(frames, seconds=[0, 1, 2, 2, 3])
    with pytest.raises(ValueError, match="a file has its own times"):
        predictor("a.mp4", seconds=[0.0])


def test_temperature_and_thresholds_are_those_of_the_run(run, calibrated_run, video, predictor):
    plain, found = predictor(video), Predictor.from_pretrained(calibrated_run, device="cpu")(video)
    expected = apply_temperature(np.array([[plain.scores[name] for name in LABELS]]), 2.0)[0]
    assert [found.scores[name] for name in LABELS] == pytest.approx(expected)
    assert found.decisions == {"fall": found.scores["fall"] >= 0.2, "idle": False}


def test_score_pixels_is_calibrated_and_of_any_batch(calibrated_run):
    few = Predictor.from_pretrained(calibrated_run, device="cpu", batch_size=2)
    pixel_values = torch.randn(5, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scores = few.score_pixels(pixel_values)
    with torch.inference_mode():
        softmax = few.model(pixel_values=pixel_values).logits.softmax(-1).double().numpy()
    np.testing.assert_allclose(scores, apply_temperature(softmax, 2.0), atol=1e-6)
    assert few.score_pixels(pixel_values[:0]).shape == (0, 3)
    assert few.labels == LABELS


def test_scores_that_are_no_numbers_are_an_error(predictor):
    with pytest.raises(ValueError, match="the scores are not numbers"):
        predictor.score_pixels(torch.full((1, 2, 3, 32, 32), torch.nan))


def test_half_precision_is_close(run, video, predictor):
    half = Predictor.from_pretrained(run, device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert half(video).scores == pytest.approx(predictor(video).scores, abs=0.05)


def test_a_region_changes_what_is_seen(predictor, video):
    region = Region(polygons=(((0.0, 0.0), (0.4, 0.0), (0.4, 1.0), (0.0, 1.0)),))
    assert predictor(video, region=region).scores != predictor(video).scores


def test_bad_input_is_one_line(predictor, run, tmp_path, video):
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(VideoDecodeError, match=r"bad\.mp4"):
        predictor(tmp_path / "bad.mp4")
    with pytest.raises(FileNotFoundError, match="no such video file"):
        predictor(tmp_path / "gone.mp4")
    for options, message in (({"num_clips": 0}, "num_clips"), ({"num_crops": 2}, "1 or 3"), ({"top_k": 0}, "top_k")):
        with pytest.raises(ValueError, match=message):
            predictor(video, **options)
    with pytest.raises(FileNotFoundError, match="no model here"):
        Predictor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="device 'moon' is not there"):
        Predictor.from_pretrained(run, device="moon")


def test_damaged_operating_points_are_refused(calibrated_run):
    (calibrated_run / "operating_points.json").write_text("{")
    with pytest.raises(ValueError, match=r"operating_points\.json is damaged"):
        Predictor.from_pretrained(calibrated_run, device="cpu")


FROM_HUB = """
import json, sys
from huggingface_hub import HfApi
from railsformer import Predictor
api = HfApi()
found = []
for name, folder in (("user/calibrated", sys.argv[1]), ("user/plain", sys.argv[2])):
    api.create_repo(name, private=True)
    api.upload_folder(repo_id=name, folder_path=folder)
    predictor = Predictor.from_pretrained(name, device="cpu")
    found.append([predictor.temperature, predictor.thresholds, list(predictor.labels)])
print(json.dumps(found))
"""


def test_a_model_comes_from_the_hub_with_its_operating_points_or_without(hub, run, calibrated_run):
    calibrated, plain = hub.run(FROM_HUB, calibrated_run, run)
    assert calibrated == [2.0, {"fall": 0.2, "idle": 1.0}, list(LABELS)]
    assert plain == [1.0, None, list(LABELS)]
