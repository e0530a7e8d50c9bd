"""A run folder: one run at a time, and a disk that fills on the way, in processes as a user starts them."""

import os
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from forked import start, until
from safetensors.torch import load_file

from railsformer.data.folders import DiskFullError
from railsformer.training import trainer
from railsformer.training.guarded_trainer import GuardedTrainer
from railsformer.training.resume import checkpoints_of, what_is_missing
from railsformer.training.run_folder import claimed_folder, saving, why_no_room

resource = pytest.importorskip("resource")  # no such limits on Windows
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")

ROOT = Path(__file__).parent.parent
TINY = ["--from_scratch", "--hidden_size", "32", "--num_hidden_layers", "2", "--num_attention_heads", "2"]
TINY += ["--intermediate_size", "64", "--image_size", "48", "--num_frames", "4", "--frame_interval", "15"]
TINY += ["--use_cpu", "true", "--disable_tqdm", "true", "--learning_rate", "1e-3", "--dataloader_num_workers", "0"]
TINY += ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--per_device_train_batch_size", "4"]
TINY += ["--save_strategy", "steps", "--save_steps", "2", "--max_steps", "4", "--num_threads", "1"]


def _fill(how):
    """Take away the room: no file may be larger than a hundred bytes, or one takes what is left of a disk."""
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        return
    with Path(how).open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def _filling(moment, step, how):
    """Make this process's disk fill at a moment: before a part of the checkpoint of a step, or of the run's end."""

    class Filling(GuardedTrainer):
        def _at(self, place):
            if (place, self.state.global_step) == (moment, step):
                _fill(how)

        def save_model(self, output_dir=None, _internal_call=False):
            self._at("weights" if _internal_call else "model")
            super().save_model(output_dir, _internal_call)

        def _save_optimizer_and_scheduler(self, output_dir):
            self._at("optimizer")
            super()._save_optimizer_and_scheduler(output_dir)

        def _save_rng_state(self, output_dir):
            self._at("random")
            super()._save_rng_state(output_dir)
            self._at("state")

    def before(place, function):
        def filled(*args, **kwargs):
            if place == moment:
                _fill(how)
            return function(*args, **kwargs)

        return filled

    trainer.GuardedTrainer = Filling
    trainer._save_facts = before("facts", trainer._save_facts)
    trainer.write_summary = before("summary", trainer.write_summary)


def _start(dataset, run_dir, *flags, fills=None, environment=None):
    command = ["train", *TINY, "--dataset", dataset, "--output_dir", run_dir, *flags]
    return start(command, before=fills and partial(_filling, *fills), environment=environment)


def _train(dataset, run_dir, *flags, fills=None):
    """Exit code, and what was printed."""
    return _start(dataset, run_dir, *flags, fills=fills).wait()


def _only_line(error):
    assert "Traceback" not in error
    told = [line for line in error.splitlines() if line.startswith("railsformer: error: ")]
    assert len(told) == 1, error
    return told[0]


@pytest.fixture(scope="module")
def whole(yard_dataset, tmp_path_factory):
    """A run that nothing happened to."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    assert _train(yard_dataset, run_dir)[0] == 0
    return run_dir


def _goes_on(run_dir, dataset, whole):
    """The same command with --resume ends as the run that nothing happened to."""
    code, error = _train(dataset, run_dir, "--resume")
    assert code == 0, error
    weights = [load_file(folder / "model.safetensors") for folder in (whole, run_dir)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (run_dir / "summary.md").is_file()


@pytest.mark.parametrize(
    "moment",
    [
        "optimizer",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("weights", "random", "state")),
    ],
)
def test_a_disk_that_fills_while_a_checkpoint_is_written_costs_that_checkpoint(moment, whole, yard_dataset, tmp_path):
    run_dir = tmp_path / "run"
    code, error = _train(yard_dataset, run_dir, fills=(moment, 4, "limit"))
    assert code == 2
    line = _only_line(error)
    assert f"output_dir {run_dir}: no room on its disk for checkpoint-4 (" in line
    assert line.endswith("free some space and go on with --resume: checkpoint-2 is whole")
    assert [path.name for path in checkpoints_of(run_dir)] == ["checkpoint-2"]
    assert what_is_missing(run_dir / "checkpoint-2") is None
    _goes_on(run_dir, yard_dataset, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "named"), [("model", "the model"), ("facts", "train_config.yaml")])
def test_a_disk_that_fills_at_the_end_costs_nothing_that_was_trained(moment, named, whole, yard_dataset, tmp_path):
    run_dir = tmp_path / "run"
    code, error = _train(yard_dataset, run_dir, fills=(moment, 4, "limit"))
    assert code == 2
    assert f"no room on its disk for {named} (" in _only_line(error)
    assert "checkpoint-4 is whole" in error
    assert not (run_dir / "run.json").exists()
    _goes_on(run_dir, yard_dataset, whole)


@pytest.mark.slow
def test_a_disk_that_fills_before_the_summary_leaves_a_finished_run(whole, yard_dataset, tmp_path):
    run_dir = tmp_path / "run"
    code, error = _train(yard_dataset, run_dir, fills=("summary", 4, "limit"))
    assert code == 2
    line = _only_line(error)
    assert "no room on its disk for the summary (File too large); model and figures are whole" in line
    code = line.partition('python -c "')[2].rstrip('"')
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (run_dir / "summary.md").is_file()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of twelve megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_real_full_disk_leaves_the_checkpoints_before_it(small_disk, whole, yard_dataset):
    run_dir = small_disk / "run"
    code, error = _train(yard_dataset, run_dir, fills=("weights", 4, small_disk / "filling"))
    assert code == 2
    assert "no room on its disk for checkpoint-4 (No space left on device)" in _only_line(error)
    (small_disk / "filling").unlink()
    _goes_on(run_dir, yard_dataset, whole)


def test_a_disk_that_fills_before_the_first_checkpoint_leaves_nothing(yard_dataset, tmp_path):
    code, error = _train(yard_dataset, tmp_path / "run", fills=("weights", 2, "limit"))
    assert code == 2
    assert _only_line(error).endswith("free some space and start again: nothing was saved before")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("short", ["0", "1"])
def test_of_two_processes_both_end_where_the_disk_of_one_fills(short, yard_dataset, tmp_path):
    run_dir = tmp_path / "run"
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = str(found.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = {
        rank: _start(
            yard_dataset, run_dir, "--per_device_train_batch_size", "2",
            fills=("random", 4, "limit") if rank == short else None,
            environment={**common, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    }  # fmt: skip
    (code, error), (other_code, other_error) = (started[rank].wait() for rank in ("0", "1"))
    assert (code, other_code) == (2, 2), error + other_error  # both left of themselves
    assert "no room on its disk for checkpoint-4" in _only_line(error)
    assert "error" not in other_error
    assert [path.name for path in checkpoints_of(run_dir)] == ["checkpoint-2"]


_WRITES_WITHOUT_ROOM = """
import resource, sys
import numpy as np, torch
from pathlib import Path
from safetensors.torch import save_file
from railsformer.training.run_folder import why_no_room

folder = Path(sys.argv[1])
big = torch.zeros(100_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
for write in (
    lambda: save_file({"a": big}, folder / "a.safetensors"),
    lambda: torch.save({"a": big}, folder / "a.pt"),
    lambda: np.save((folder / "a.npy").open("wb"), big.numpy()),
    lambda: (folder / "a.txt").write_text("a" * 9000),
):
    try:
        write()
    except Exception as error:
        print(why_no_room(error))
"""


def test_libraries_say_no_room_in_words_of_their_own(tmp_path):
    """In a process of its own: a limit on files cannot be taken back."""
    done = subprocess.run(
        [sys.executable, "-c", _WRITES_WITHOUT_ROOM, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    words = ["File too large", "a write was cut short", "a write was cut short", "File too large"]
    assert done.stdout.splitlines() == words, done.stderr


@pytest.mark.parametrize("error", [PermissionError(13, "no"), RuntimeError("shape mismatch"), ValueError("no space")])
def test_other_errors_are_not_taken_for_a_full_disk(error, tmp_path):
    assert why_no_room(error) is None
    with pytest.raises(type(error)), saving(tmp_path, "the model"):
        raise error


def test_a_full_device_is_told_with_the_folder(tmp_path):
    message = r"no room on its disk for the model \(No space left on device\); free"
    with pytest.raises(DiskFullError, match=message), saving(tmp_path, "the model"):
        Path("/dev/full").write_text("a" * 9000)


def test_a_second_run_in_the_same_folder_is_refused_and_a_killed_one_does_not_block(yard_dataset, tmp_path):
    run_dir = tmp_path / "run"
    endless = ["--max_steps", "1000000", "--save_total_limit", "2", "--dataloader_num_workers", "1"]
    first = _start(yard_dataset, run_dir, *endless)
    try:
        until(lambda: not first.runs() or any(what_is_missing(one) is None for one in checkpoints_of(run_dir)))
        for flags in ([], ["--resume"]):
            code, error = _train(yard_dataset, run_dir, *flags)
            assert code == 2
            assert f"output_dir {run_dir} is being written by another run; wait for it or" in _only_line(error)
        assert first.runs()
    finally:
        first.kill()
    with claimed_folder(run_dir, resume=True, resume_from=None):  # its worker may live on for some seconds
        pass
    assert not (run_dir / ".running").exists()
    assert checkpoints_of(run_dir)


def _little_memory():
    """Let the data of this process grow by 100 MiB and no more."""
    status = Path("/proc/self/status").read_text()
    used = int(status.partition("VmData:")[2].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + 100 * 2**20, resource.RLIM_INFINITY))


@pytest.mark.slow
def test_a_cpu_that_overflows_is_told_in_one_line_with_what_would_fit(yard_dataset, tmp_path):
    large = ["--image_size", "512", "--num_frames", "8", "--per_device_train_batch_size", "8"]
    command = ["train", *TINY, "--dataset", yard_dataset, "--output_dir", tmp_path / "run", *large]
    code, error = start(command, before=_little_memory).wait()
    assert code == 2, error
    line = _only_line(error)
    assert "out of memory" in line
    assert "per_device_train_batch_size" in line or "nothing fits" in line


def _claim(folder, **options):
    with claimed_folder(folder, **{"resume": False, "resume_from": None, **options}):
        pass


def test_what_an_unfinished_run_left_is_not_overwritten(tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(FileExistsError, match="holds a run that was not finished; go on with --resume, remove it"):
        _claim(tmp_path)
    (tmp_path / "run.json").touch()
    with pytest.raises(ValueError, match="holds a finished run"):
        _claim(tmp_path, resume_from=str(tmp_path / "checkpoint-2"))
    assert not (tmp_path / ".running").exists()


def test_a_named_checkpoint_does_not_open_a_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="already holds something"):
        _claim(tmp_path, resume_from="elsewhere/checkpoint-2")
