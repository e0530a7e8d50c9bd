import csv
import gc
import os
import shutil
from itertools import pairwise

import datasets
import numpy as np
import pytest
import torch
from videos import frame_number, write_video

from railsformer.data.builder import build_dataset
from railsformer.data.clips import (
    LOST_LABEL,
    ClipDataset,
    collate_clips,
    collate_training_clips,
    load_video_dataset,
)
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings, TrainingAugmentation, evaluation_crops, evaluation_pixels
from railsformer.data.video import VideoDecodeError, read_frames

PIXELS = PixelSettings(crop_px=48, short_side_px=48)  # as high as the videos, whose numbers survive a resize only
SAMPLING = ClipSampling(num_frames=3, frame_interval=6)  # 0.2 s apart, spans 0.4 s
AUGMENTATION = TrainingAugmentation(48, 64, flip=True, light=0.3, grey=0.2)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Nine square videos of three cameras and two classes, through the builder; video i begins with number 20 i."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built") / "dataset"
    rows = []
    for index in range(9):
        name = f"v{index}.mp4"
        write_video(source / name, num_frames=10 + index, fps=10, width=48, height=48, first_number=20 * index)
        rows.append({"file_name": name, "label": ("yes", "no")[index // 3 % 2], "camera": f"c{index % 3}"})
    with (source / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    build_dataset(
        source,
        output_dir=folder,
        annotations=source / "clips.csv",
        group_by="camera",
        validation_groups=["c1"],
        test_groups=["c2"],
        progress=False,
    )
    return folder


@pytest.fixture(scope="module")
def loaded(built):
    return load_video_dataset(built)


def _clips(rows, **options):
    return ClipDataset(rows, **{"sampling": SAMPLING, "pixels": PIXELS, **options})


def _numbers(clip):
    return [frame_number(frame) for frame in clip["pixel_values"]]


def test_a_built_dataset_loads_undecoded(loaded, built):
    assert set(loaded.splits) == {"train", "validation", "test"}
    assert loaded.labels == ("no", "yes")
    assert loaded.name == str(built)
    assert len(loaded.fingerprint) == 64
    assert "camera" in loaded.split_kind or "group" in loaded.split_kind
    row = loaded.split("test")[0]
    assert os.path.isfile(row["video"]["path"])
    assert row["camera"] == "c2"


def test_evaluation_clips_come_from_the_middle(loaded):
    clips = _clips(loaded.split("test"))
    assert len(clips) == 3
    for index, row in enumerate(loaded.split("test")):
        clip = clips[index]
        number = int(row["source"].removeprefix("v").removesuffix(".mp4"))
        # n pictures of 0.1 s leave n / 10 - 0.4 s of slack
        first = int((0.1 * (10 + number) - 0.4) / 2 * 10 + 0.01)
        assert _numbers(clip) == [(20 * number + first + 2 * step) % 256 for step in range(3)]
        assert clip["pixel_values"].shape == (3, 3, 48, 48)
        assert (clip["labels"], clip["video_index"]) == (row["label"], index)


def test_several_clips_of_a_video_follow_each_other(loaded):
    clips = _clips(loaded.split("train"), num_clips=3)
    assert len(clips) == 9
    assert [clips[index]["video_index"] for index in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    firsts = [_numbers(clips[index])[0] for index in range(3)]  # 10 pictures, slack 0.6 s: 0.1, 0.3 and 0.5 s
    assert firsts == [1, 3, 5]


def test_the_middle_frame_everywhere(loaded):
    rows = loaded.split("train")
    moving, still = _clips(rows)[0]["pixel_values"], _clips(rows, frame_order="middle")[0]["pixel_values"]
    assert torch.equal(still, moving[1:2].expand(3, -1, -1, -1))


def test_shuffled_frames_are_the_same_pictures_in_an_order_of_seed_and_index(loaded):
    rows = loaded.split("train")
    plain, shuffled = _clips(rows, num_clips=3), _clips(rows, num_clips=3, frame_order="shuffled", seed=4)
    orders = set()
    for index in range(len(plain)):
        shown, numbers = _numbers(shuffled[index]), _numbers(plain[index])
        assert sorted(shown) == sorted(numbers)
        assert shown != numbers
        orders.add(tuple(numbers.index(number) for number in shown))
    assert len(orders) > 1
    again = _clips(rows, num_clips=3, frame_order="shuffled", seed=4)
    assert torch.equal(again[7]["pixel_values"], shuffled[7]["pixel_values"])
    other = _clips(rows, num_clips=3, frame_order="shuffled", seed=5)
    assert any(_numbers(other[index]) != _numbers(shuffled[index]) for index in range(len(other)))


def test_the_crops_of_a_clip_share_the_shuffled_order(loaded):
    rows = loaded.split("train")
    plain, shuffled = (_clips(rows, num_crops=3, frame_order=order)[1] for order in ("forwards", "shuffled"))
    means = [clip["pixel_values"].mean(dim=(2, 3, 4)) for clip in (plain, shuffled)]
    order = [int((means[0][0] - mean).abs().argmin()) for mean in means[1][0]]
    assert torch.equal(shuffled["pixel_values"], plain["pixel_values"][:, order])


def test_reversed_frames_run_backwards(loaded):
    rows = loaded.split("train")
    moving, back = _clips(rows)[0]["pixel_values"], _clips(rows, frame_order="reversed")[0]["pixel_values"]
    assert torch.equal(back, moving.flip(0))


def test_training_clips_are_a_function_of_seed_epoch_and_index(loaded):
    rows = loaded.split("train")
    clips = _clips(rows, augmentation=AUGMENTATION, seed=5)
    first = [clips[index]["pixel_values"] for index in range(3)]
    for index in (2, 0, 1):  # in any order, in another object
        again = _clips(rows, augmentation=AUGMENTATION, seed=5)[index]["pixel_values"]
        assert torch.equal(again, first[index])
    clips.set_epoch(1)
    assert clips.epoch == 1
    assert not torch.equal(clips[0]["pixel_values"], first[0])
    clips.set_epoch(0)
    assert torch.equal(clips[0]["pixel_values"], first[0])
    other = _clips(rows, augmentation=AUGMENTATION, seed=6)
    assert not torch.equal(other[0]["pixel_values"], first[0])


def test_an_index_beyond_the_videos_is_a_further_draw(loaded):
    rows = loaded.split("train")
    clips = _clips(rows, augmentation=AUGMENTATION, seed=5)
    assert len(clips) == len(list(clips)) == 3
    draws = [clips[1 + 3 * draw] for draw in range(3)]
    assert [draw["video_index"] for draw in draws] == [1, 1, 1]
    assert [draw["labels"] for draw in draws] == [rows[1]["label"]] * 3
    for one, two in pairwise([*draws, draws[0]]):
        assert not torch.equal(one["pixel_values"], two["pixel_values"])
    again = _clips(rows, augmentation=AUGMENTATION, seed=5)[7]["pixel_values"]
    assert torch.equal(again, draws[2]["pixel_values"])
    with pytest.raises(IndexError, match="index must be from 0 to 2, got -1"):
        clips[-1]
    with pytest.raises(IndexError, match="index must be from 0 to 5, got 6"):  # evaluation has no further draws
        _clips(rows, num_clips=2)[6]


def test_training_clips_begin_anywhere_that_fits(loaded):
    clips = _clips(loaded.split("train"), augmentation=TrainingAugmentation(48, 48))
    starts = set()
    for epoch in range(80):
        clips.set_epoch(epoch)
        numbers = _numbers(clips[0])
        assert numbers[0] in range(7)  # 6 within the reader's tolerance of a millisecond
        assert all(after - before in (1, 2, 3) for before, after in pairwise(numbers))
        starts.add(numbers[0])
    assert starts - {6} == {0, 1, 2, 3, 4, 5}


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", [None, AUGMENTATION])
def test_workers_change_nothing(loaded, augmentation):
    clips = _clips(loaded.split("train"), augmentation=augmentation, num_clips=2)
    here, elsewhere = (
        torch.utils.data.DataLoader(
            clips, batch_size=2, num_workers=workers, collate_fn=collate_clips, persistent_workers=bool(workers)
        )
        for workers in (0, 2)
    )
    seen = []
    for epoch in (0, 1):  # workers that live on must see the epoch move
        clips.set_epoch(epoch)
        batches = list(zip(here, elsewhere, strict=True))
        for one, two in batches:
            assert torch.equal(one["pixel_values"], two["pixel_values"])
            assert torch.equal(one["labels"], two["labels"])
        seen.append(batches[0][0]["pixel_values"])
    assert torch.equal(*seen) == (augmentation is None)


def test_collation():
    clips = [{"pixel_values": torch.full((2, 3, 4, 4), float(n)), "labels": n, "video_index": n} for n in range(3)]
    batch = collate_clips(clips)
    assert set(batch) == {"pixel_values", "labels"}
    assert batch["pixel_values"].shape == (3, 2, 3, 4, 4)
    assert batch["labels"].tolist() == [0, 1, 2]
    assert batch["labels"].dtype == torch.long


def _rows(videos, **columns):
    features = {"video": datasets.Video(decode=False), "label": datasets.ClassLabel(names=["no", "yes"])}
    features |= {name: datasets.Value("float64") for name in columns}
    content = {"video": videos, "label": [0] * len(videos), **columns}
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def test_videos_held_as_bytes(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=12, width=48, height=48)
    on_disk = _clips(_rows([str(path)]))[0]["pixel_values"]
    held = {"bytes": path.read_bytes(), "path": "a.mp4"}
    nameless = {"bytes": path.read_bytes(), "path": None}
    clips = _clips(_rows([held, nameless, {"bytes": b"no video", "path": "b.mp4"}, {"bytes": b"-", "path": None}]))
    assert torch.equal(clips[0]["pixel_values"], on_disk)
    assert torch.equal(clips[1]["pixel_values"], on_disk)
    with pytest.raises(VideoDecodeError, match=r"^b\.mp4: "):
        clips[2]
    with pytest.raises(VideoDecodeError, match=r"^video of row 3: "):
        clips[3]


def test_a_segment_is_as_long_as_its_times_say(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=20, width=48, height=48)
    videos = [str(path)] * 3
    # whole file by its own length; the first second; a segment that stood at 30 s of its source
    clips = _clips(_rows(videos, start_seconds=[None, 0.0, 30.0], end_seconds=[None, 1.0, 31.0]))
    assert [_numbers(clips[index]) for index in range(3)] == [[8, 10, 12], [3, 5, 7], [3, 5, 7]]


def test_a_video_shorter_than_the_clip_holds_its_end(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=3, width=48, height=48)
    rows = _rows([str(path)])
    assert _numbers(_clips(rows)[0]) == [0, 2, 2]
    assert _numbers(_clips(rows, augmentation=TrainingAugmentation(48, 48))[0]) == [0, 2, 2]


@pytest.mark.parametrize(
    ("rules", "evaluation", "training"),
    [
        ({"short_video": "loop"}, [0, 2, 1, 0, 2], [0, 2, 1, 0, 2]),  # 0.2 s apart in 0.3 s
        ({"short_video": "stretch"}, [0, 0, 1, 2, 2], [0, 0, 1, 2, 2]),
        ({"clip_sampling": "segments"}, [0, 0, 1, 2, 2], None),
    ],
)
def test_a_short_video_follows_the_models_rule(tmp_path, rules, evaluation, training):
    rows = _rows([str(write_video(tmp_path / "a.mp4", num_frames=3, width=48, height=48))])
    sampling = ClipSampling(num_frames=5, frame_interval=6, **rules)
    assert _numbers(_clips(rows, sampling=sampling)[0]) == evaluation
    drawn = _clips(rows, sampling=sampling, augmentation=TrainingAugmentation(48, 48))
    assert training is None or _numbers(drawn[0]) == training


def test_training_segments_are_a_function_of_seed_epoch_and_index(tmp_path):
    rows = _rows([str(write_video(tmp_path / "a.mp4", num_frames=40, width=48, height=48))])
    sampling = ClipSampling(4, 6, clip_sampling="segments")
    clips = _clips(rows, sampling=sampling, augmentation=TrainingAugmentation(48, 48), seed=3)
    drawn = []
    for epoch in range(12):
        clips.set_epoch(epoch)
        drawn.append(_numbers(clips[0]))
        assert _numbers(clips[0]) == drawn[-1]
    assert all(number // 10 in (part, part + (number % 10 == 0)) for row in drawn for part, number in enumerate(row))
    assert len({tuple(row) for row in drawn}) == 12


def test_crops_of_a_clip_come_together_after_the_clips(tmp_path):
    path = write_video(tmp_path / "wide.mp4", num_frames=20, width=128, height=48)
    rows, pixels = _rows([str(path), str(path)], end_seconds=[2.0, 1.0]), PixelSettings(32, 40)
    clips = _clips(rows, pixels=pixels, num_clips=2, num_crops=3)
    assert len(clips) == 4
    assert [clips[index]["video_index"] for index in range(4)] == [0, 0, 1, 1]
    times = SAMPLING.evaluation_times(0.0, 2.0, num_clips=2)
    for index in range(2):
        expected = evaluation_crops(read_frames(path, times[index]), pixels)
        assert torch.equal(clips[index]["pixel_values"], expected)
    batch = collate_clips([clips[0], clips[3]])
    assert batch["pixel_values"].shape == (2, 3, 3, 3, 32, 32)
    assert batch["labels"].tolist() == [0, 0]
    assert _clips(rows, num_crops=3, augmentation=AUGMENTATION)[0]["pixel_values"].shape == (3, 3, 48, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_crops": 2}, "num_crops must be 1 or 3, got 2"), ({"num_clips": 0}, "num_clips must be at least 1, got 0")],
)
def test_views_that_do_not_exist_are_refused(loaded, options, message):
    with pytest.raises(ValueError, match=message):
        _clips(loaded.split("test"), **options)


def test_an_unreadable_video_is_named_and_never_replaced(tmp_path):
    good = write_video(tmp_path / "good.mp4")
    bad, absent = tmp_path / "bad.mp4", tmp_path / "absent.mp4"
    bad.write_bytes(b"\0" * 500)
    clips = _clips(_rows([str(good), str(bad), str(absent)], end_seconds=[1.0, 1.0, 1.0]))
    clips[0]
    with pytest.raises(VideoDecodeError, match=r"bad\.mp4: cannot be decoded as video"):
        clips[1]
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4: no such video file"):
        clips[2]


def test_in_training_a_lost_clip_keeps_its_place_and_says_so(tmp_path):
    good = write_video(tmp_path / "good.mp4")
    bad, absent = tmp_path / "bad.mp4", tmp_path / "absent.mp4"
    bad.write_bytes(b"\0" * 500)
    rows = _rows([str(good), str(bad), str(absent)], end_seconds=[1.0, 1.0, 1.0])
    clips = _clips(rows, augmentation=AUGMENTATION, keep_lost=True)
    batch = collate_training_clips([clips[0], clips[1], clips[5]])
    assert batch["labels"].tolist() == [rows[0]["label"], LOST_LABEL, LOST_LABEL]
    assert batch["video_index"] == [0, 1, 2]
    assert [(lost.video_index, lost.file) for lost in batch["lost"]] == [(1, str(bad)), (2, str(absent))]
    assert batch["lost"][1].reason == "no such video file"
    assert batch["pixel_values"].shape == (3, 3, 3, 48, 48)
    assert not batch["pixel_values"][1:].any()
    with pytest.raises(ValueError, match="keep_lost is for training clips"):
        _clips(rows, keep_lost=True)


@pytest.mark.slow
def test_a_worker_names_the_unreadable_video_too(tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"\0" * 500)
    loader = torch.utils.data.DataLoader(
        _clips(_rows([str(bad)], end_seconds=[1.0])), num_workers=1, collate_fn=collate_clips
    )
    with pytest.raises(Exception, match=r"VideoDecodeError: .*bad\.mp4: cannot be decoded as video"):
        next(iter(loader))


def test_datasets_that_are_refused(tmp_path, loaded, built):
    with pytest.raises(FileNotFoundError, match=r"no dataset here .there is no such folder.*railsformer build"):
        load_video_dataset(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"no dataset here .README.md is missing.*railsformer build"):
        load_video_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no dataset here .it is a file"):
        load_video_dataset(built / "README.md")
    with pytest.raises(
        FileNotFoundError,
        match=r"out/none: neither a folder nor a dataset on the Hub.*`railsformer build SOURCE --output_dir out/none`",
    ):
        load_video_dataset("out/none")
    table = tmp_path / "table"
    table.mkdir()
    (table / "README.md").write_text("# A table\n")
    (table / "train.csv").write_text("file_name,label\na.mp4,yes\n")
    with pytest.raises(ValueError, match="split 'train' must have a video column and a label column with names"):
        load_video_dataset(table)
    with pytest.raises(ValueError, match=r"has no split 'holdout'; it has train, validation, test"):
        loaded.split("holdout")
    empty = type(loaded)("x", {"test": loaded.split("test").select([])}, loaded.labels, "", "")
    with pytest.raises(ValueError, match="split 'test' of x holds no video"):
        empty.split("test")


def _edit(*path, old, new):
    def edit(folder):
        file = folder.joinpath(*path)
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")

    return edit


def _write(*path, text):
    return lambda folder: folder.joinpath(*path).write_text(text, encoding="utf-8")


def _remove_videos(folder):
    for path in folder.rglob("*.mp4"):
        path.unlink()


TABLE = ("data", "test", "metadata.csv")
HEADER = "file_name,label,group,source,start_seconds,end_seconds,camera\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            _remove_videos,
            r"dataset: 3 of 3 videos of split 'train' are gone .*v0\.mp4.; put them back, or build it again",
        ),
        (
            lambda folder: (folder / "data/test/v2.mp4").unlink(),
            r"1 of 3 videos of split 'test' are gone .first .*v2\.mp4",
        ),
        (
            _edit(*TABLE, old=",yes,", new=",maybe,"),
            r"metadata\.csv row 2: label 'maybe' is not one that README\.md names",
        ),
        (
            _edit(*TABLE, old=",yes,", new=",,"),
            r"metadata\.csv row 2: label '' is not one that README\.md names .no, yes",
        ),
        (_edit("README.md", old="configs:", new="configs: ["), r"README\.md: its YAML header cannot be read"),
        (_write("dataset.json", text="[]"), r"dataset\.json must hold an object, got list; build the dataset again"),
        (_write("dataset.json", text="{"), r"dataset\.json is damaged .*build the dataset again"),
        (
            lambda folder: shutil.rmtree(folder / "data/test"),
            r"the folder of split 'test' is missing .*build it again",
        ),
        (lambda folder: folder.joinpath(*TABLE).unlink(), r"split 'test' has no metadata .*metadata\.csv is missing"),
        (_write(*TABLE, text=""), r"split 'test' holds no video .*metadata\.csv has no rows.; build it again"),
        (_write(*TABLE, text=HEADER), r"split 'test' holds no video"),
        (_edit(*TABLE, old=",1.2,", new=",abc,"), r"metadata\.csv row 2: end_seconds must be a number .* got abc"),
        (_edit(*TABLE, old=",1.2,", new=",1e308,"), "row 2: end_seconds must be a number from 0 to 1e.07, got 1e308"),
        (_edit(*TABLE, old=",1.2,", new=",nan,"), "row 2: end_seconds must be a number .* got nan"),
        (_edit(*TABLE, old=",1.2,", new=",-1,"), "row 2: end_seconds must be a number .* got -1"),
        (
            _edit(*TABLE, old=",0.0,1.2,", new=",1.2,1.2,"),
            "row 2: end_seconds must be after start_seconds, got 1.2 and",
        ),
        (lambda folder: folder.joinpath(*TABLE).write_bytes(b"\xff\xfe"), r"metadata\.csv cannot be read .*utf-8"),
        (_write("config.json", text="{}"), "this is a model, not a dataset .it holds config.json"),
        (
            _edit("README.md", old="dtype: float64", new="dtype: number"),
            r"dataset: the dataset is damaged .Feature type 'Number' not found",
        ),
    ],
)
def test_damaged_datasets_are_named_in_one_line(built, tmp_path, damage, message):
    folder = tmp_path / "dataset"
    shutil.copytree(built, folder)
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        load_video_dataset(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_parquet_is_named(built, tmp_path):
    folder = tmp_path / "dataset"
    shutil.copytree(built, folder)
    for table in folder.rglob("metadata.csv"):
        rows = datasets.Dataset.from_csv(str(table), cache_dir=str(tmp_path / "cache"))
        rows.to_parquet(str(table.with_suffix(".parquet")))
        table.unlink()
    assert len(load_video_dataset(folder).split("test")) == 3
    (folder / "data/test/metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"metadata\.parquet cannot be read"):
        load_video_dataset(folder)


def test_corrections_by_hand_are_seen(built, tmp_path):
    folder = tmp_path / "dataset"
    shutil.copytree(built, folder)
    assert load_video_dataset(folder).split("test")["label"] == [1, 0, 1]
    _edit(*TABLE, old=",yes,", new=",no,")(folder)
    assert load_video_dataset(folder).split("test")["label"] == [0, 0, 0]


def test_copies_across_splits_are_told(built, tmp_path, caplog):
    folder = tmp_path / "dataset"
    shutil.copytree(built, folder)
    load_video_dataset(folder)
    assert "exact copy" not in caplog.text
    _edit("dataset.json", old='"copies_on_several_sides": 0', new='"copies_on_several_sides": 2')(folder)
    load_video_dataset(folder)
    assert "dataset: 2 video(s) have an exact copy in another split" in caplog.text


def test_real_footage(tankyard):
    path = next(iter(sorted((tankyard / "train_in_out").glob("*.mp4"))))
    sampling, pixels = ClipSampling(8, 32), PixelSettings(112, 128)
    clip = ClipDataset(_rows([str(path)], end_seconds=[10.0]), sampling=sampling, pixels=pixels)[0]
    start = (10.0 - 7 * 32 / 30) / 2
    expected = evaluation_pixels(read_frames(path, start + np.arange(8) * 32 / 30), pixels)
    assert torch.equal(clip["pixel_values"], expected)
    assert expected.std() > 0.1


def test_no_handle_stays_behind(loaded):
    clips = _clips(loaded.split("train"), augmentation=AUGMENTATION)
    clips[0]
    gc.collect()
    handles = len(os.listdir("/proc/self/fd"))
    for index in range(60):
        clips[index % 3]
    assert len(os.listdir("/proc/self/fd")) <= handles + 1
