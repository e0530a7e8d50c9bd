"""From which checkpoint a run goes on, whether that is whole, and whether it is of the same run."""

import json
import logging
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

__all__ = [
    "RECORD_FILE",
    "check_room",
    "checkpoints_of",
    "newest_whole_checkpoint",
    "read_record",
    "refuse_another_run",
    "what_is_missing",
    "write_record",
]

logger = logging.getLogger(__name__)

RECORD_FILE = "railsformer_run.json"
# transformers writes this while its own signal handler saves, and reads it nowhere.
_INCOMPLETE_FILE = "checkpoint-is-incomplete.txt"
_STATE_FILE = "trainer_state.json"
_SHARDED = ("pytorch_model_fsdp*", "global_step*")
# What each difference means for the user.
_ADVICE = {
    "labels": "the head would stand for other classes",
    "attention_type": "its weights are of another scheme",
    "global_batch_size": "batch x processes x accumulation must stay what it was",
    "dataset_fingerprint": "its epochs are of other clips; start a new run with --model CHECKPOINT",
}
_GIB = 2**30


def checkpoints_of(run_dir: Path) -> list[Path]:
    """Checkpoint folders of a run, newest first."""
    found = [path for path in run_dir.glob("checkpoint-*") if path.is_dir() and path.name[11:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[11:]), reverse=True)


def newest_whole_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint that is whole, or None; those that are not are passed over with a word."""
    for checkpoint in checkpoints_of(run_dir):
        reason = what_is_missing(checkpoint)
        if reason is None:
            return checkpoint
        logger.warning("%s is passed over: %s", checkpoint, reason)
    return None


def what_is_missing(checkpoint: Path) -> str | None:
    """Why training cannot go on from a checkpoint, in a few words; None where it can.

    trainer_state.json is written last of all, after every process has written its part: a process that was killed
    leaves no such file, or one that ends in the middle.
    """
    if not checkpoint.is_dir():
        return "there is no such folder"
    if (checkpoint / _INCOMPLETE_FILE).exists():
        return f"{_INCOMPLETE_FILE} is there"
    if not _is_json(checkpoint / _STATE_FILE):
        return f"{_STATE_FILE} is missing or torn"
    sharded = any(any(checkpoint.glob(pattern)) for pattern in _SHARDED)
    weights = list(checkpoint.glob("*.safetensors"))
    if not weights and not sharded:
        return "its weights are missing"
    index = checkpoint / "model.safetensors.index.json"
    if index.exists():
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if absent := sorted(named - {path.name for path in weights}):
            return f"{absent[0]} is missing"
    if torn := next((path for path in weights if not _is_whole_safetensors(path)), None):
        return f"{torn.name} is torn"
    states = ["scheduler.pt", *([] if sharded else ["optimizer.pt"]), *_rng_files(checkpoint)]
    if torn_state := next((name for name in states if not zipfile.is_zipfile(checkpoint / name)), None):
        return f"{torn_state} is missing or torn"
    return None


def write_record(checkpoint: Path, *, identity: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
    """Begin a checkpoint: a folder with what the run is and what it has met, and nothing of an earlier attempt."""
    shutil.rmtree(checkpoint, ignore_errors=True)
    checkpoint.mkdir(parents=True)
    text = json.dumps({"identity": identity, "progress": progress}, indent=2, ensure_ascii=False)
    (checkpoint / RECORD_FILE).write_text(text + "\n", encoding="utf-8")


def read_record(checkpoint: Path) -> dict[str, Any]:
    """What `write_record` wrote; without it, labels and scheme of the checkpoint's config."""
    file = checkpoint / RECORD_FILE
    if file.is_file():
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        record["identity"].setdefault("time_table", "zeros")  # of versions that knew no other
        return record
    config_file = checkpoint / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    names = config.get("id2label", {})
    identity = {
        "labels": [names[key] for key in sorted(names, key=int)],
        "attention_type": config.get("attention_type"),
    }
    return {"identity": {key: value for key, value in identity.items() if value}, "progress": {}}


def refuse_another_run(checkpoint: Path, identity: Mapping[str, Any]) -> None:
    """Check that a checkpoint is of the run that wants to go on from it.

    Args:
        checkpoint: The checkpoint.
        identity: What the run is: labels, scheme, sizes, global batch, dataset, seed.

    Raises:
        ValueError: With the first difference.
    """
    for name, before in read_record(checkpoint)["identity"].items():
        now = identity.get(name)
        if before != now:
            advice = _ADVICE.get(name, f"a resumed run must be the same run; give --{name} {_told(before)} as before")
            raise ValueError(
                f"{checkpoint} cannot be resumed: its {name} is {_told(before)}, this run's is {_told(now)}; {advice}"
            )


def check_room(run_dir: Path, model: torch.nn.Module, args: TrainingArguments, *, num_saves: int) -> None:
    """Check before the first step that the run folder can be written and holds what the run will save.

    Args:
        run_dir: The run folder; it is there.
        model: The model, its parameters frozen as they will be.
        args: How often is saved, and how many checkpoints are kept.
        num_saves: Checkpoints that the run writes in all.

    Raises:
        ValueError: If the disk has not enough room, or is full already.
    """
    model_bytes = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    # Adam keeps two float32 numbers a weight. Other optimizers keep less.
    checkpoint_bytes = model_bytes + (0 if args.save_only_model else 8 * trained) + 2**20
    kept = num_saves
    if args.save_total_limit:  # the best stays beside them, and the next is written before the oldest goes
        kept = min(num_saves, args.save_total_limit + bool(args.load_best_model_at_end) + 1)
    there = sum(file.stat().st_size for path in checkpoints_of(run_dir) for file in path.rglob("*") if file.is_file())
    needed = kept * checkpoint_bytes + model_bytes
    free = shutil.disk_usage(run_dir).free + there
    if needed > free:
        raise ValueError(
            f"output_dir {run_dir} has {free / _GIB:.2f} GiB for this run, which needs {needed / _GIB:.2f} GiB: "
            f"{kept} checkpoints of {checkpoint_bytes / _GIB:.2f} GiB and the model of {model_bytes / _GIB:.2f} GiB; "
            "free some space, lower --save_total_limit, or name another --output_dir"
        )
    _try_to_write(run_dir)


def _try_to_write(run_dir: Path) -> None:
    """A full disk, or a quota that free space does not show, refuses a megabyte."""
    probe = run_dir / ".room"
    try:
        probe.write_bytes(bytes(2**20))
    except OSError as error:
        raise ValueError(
            f"output_dir {run_dir} cannot be written ({error.strerror}); free some space or name another --output_dir"
        ) from error
    finally:
        probe.unlink(missing_ok=True)


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _is_whole_safetensors(file: Path) -> bool:
    """Whether a file has the length that its header states: 8 bytes, the header, then the tensors."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > file.stat().st_size:
                return False
            header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return file.stat().st_size == 8 + length + max(ends, default=0)


def _rng_files(checkpoint: Path) -> list[str]:
    """The files of random state that the checkpoint's processes wrote."""
    processes = int(read_record(checkpoint)["progress"].get("num_processes", 0))
    if processes > 1:
        return [f"rng_state_{index}.pth" for index in range(processes)]
    return ["rng_state.pth"] if processes else []


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else repr(value)
