"""One ruler for every network: time and memory of its passes, in a process that measures nothing else.

It is also the script that a 3D CNN's own environment runs, so it imports nothing of railsformer, and only what any
torch 2.1 or later on Python 3.8 or later has. A request comes as one line of JSON on stdin, which stays open: where it
ends, whoever asked is gone, and so this process goes too. The answer is the last line of stdout.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import sys
import threading
import time
from typing import Any, Callable, Tuple  # noqa: UP035  (of Python 3.8)

import torch

__all__ = ["build_peer", "library_versions", "measure_passes", "serve"]

Network = Tuple[torch.nn.Module, Tuple[Any, ...]]  # noqa: UP006  (of Python 3.8: a model and what it is called with)


def serve(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Read a request, do the work under its limits, print the answer.

    Args:
        work: From the request to the answer. A request has `num_threads`, `limit_bytes` (None: no limit) and `device`.
            An answer of `overflow` says that memory ended, one of `error` why the network is not there, with
            `missing_library` where installing something helps.
    """
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_go_with_the_asker, daemon=True).start()
    torch.set_num_threads(request["num_threads"])
    try:
        _set_limit(request["limit_bytes"], request["device"])
        answer = work(request)
    except MemoryError:
        answer = {"overflow": True}
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if "out of memory" not in str(error) and "allocate memory" not in str(error):
            raise
        answer = {"overflow": True}
    except ImportError as error:
        fix = "--peer_python must be of an environment with torch, torchvision and pytorchvideo"
        answer = {"error": f"{' '.join(str(error).split())}; {fix}", "missing_library": True}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


def measure_passes(build: Callable[[], Network], request: dict[str, Any]) -> dict[str, Any]:
    """Time forward passes or training steps of a batch of one, and see what they take.

    Args:
        build: Makes the model and what it is called with.
        request: `mode` is `forward` or `training`: forward, backward and a step of SGD with momentum. `repeats` are
            timed, after one that is not. `device` is `cpu` or `cuda`.

    Returns:
        `seconds` of each pass, and `peak_bytes`: the most memory over what stood before the model was built, so with
        weights, and in training with gradients and momentum.
    """
    device = torch.device(request["device"])
    torch.manual_seed(0)
    # Loads libraries and starts threads, which are nobody's cost.
    torch.nn.Linear(8, 8, device=device)(torch.zeros(1, 8, device=device)).sum().backward()
    before = _used_bytes(device)
    model, inputs = build()
    model = model.to(device)
    inputs = _moved(inputs, device)
    run = _training_step(model, inputs) if request["mode"] == "training" else _forward(model, inputs)
    _reset_peak(device)
    seconds = []
    for _ in range(request["repeats"] + 1):
        began = _now(device)
        run()
        seconds.append(_now(device) - began)
    return {"seconds": seconds[1:], "peak_bytes": max(0, _peak_bytes(device) - before)}


def build_peer(config: dict[str, Any]) -> Network:
    """A 3D CNN of pytorchvideo with random weights, and a clip for it.

    Args:
        config: `builder` (i3d_8x8_r50 or slowfast_8x8_r50), `num_frames`, `image_size`, `num_labels`.
    """
    from pytorchvideo.models import create_resnet, create_slowfast  # type: ignore[import-not-found]

    frames, side = config["num_frames"], config["image_size"]
    pool = min(7, side // 32)  # the last map is smaller than that only for pictures under 224 px
    clip = torch.randn(1, 3, frames, side, side)
    if config["builder"] == "slowfast_8x8_r50":
        slow = frames // 4
        model = create_slowfast(
            model_num_class=config["num_labels"], head_pool_kernel_sizes=((slow, pool, pool), (frames, pool, pool))
        )
        return model, ([clip[:, :, ::4], clip],)
    model = create_resnet(
        model_num_class=config["num_labels"],
        stem_conv_kernel_size=(5, 7, 7),
        stage1_pool=torch.nn.MaxPool3d,
        stage_conv_a_kernel_size=(
            (3, 1, 1),
            [(3, 1, 1), (1, 1, 1)],
            [(3, 1, 1), (1, 1, 1)],
            [(1, 1, 1), (3, 1, 1)],
        ),
        head_pool_kernel_size=(frames // 2, pool, pool),
    )
    return model, (clip,)


def main() -> None:
    """Count or measure a 3D CNN."""
    serve(_peer_work)


def _peer_work(request: dict[str, Any]) -> dict[str, Any]:
    if request["mode"] == "count":
        answer = _count(request["config"])
    else:
        answer = measure_passes(lambda: build_peer(request["config"]), request)
    return {**answer, "versions": library_versions()}


def library_versions() -> dict[str, str]:
    """Of this environment."""
    found = {"torch": str(torch.__version__)}
    for name in ("torchvision", "pytorchvideo"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _count(config: dict[str, Any]) -> dict[str, Any]:
    """Parameters, and multiply-accumulates of one clip, on the meta device: nothing is computed."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model, inputs = build_peer(config)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(*_listed(inputs))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "macs": counter.get_total_flops() // 2}


def _forward(model: torch.nn.Module, inputs: tuple[Any, ...]) -> Callable[[], None]:
    model.eval()

    def run() -> None:
        with torch.inference_mode():
            model(*_listed(inputs))

    return run


def _training_step(model: torch.nn.Module, inputs: tuple[Any, ...]) -> Callable[[], None]:
    """With the paper's optimizer."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-4)

    def run() -> None:
        output = model(*_listed(inputs))
        logits = output.logits if hasattr(output, "logits") else output
        torch.nn.functional.cross_entropy(logits, torch.zeros(1, dtype=torch.long, device=logits.device)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def _listed(inputs: tuple[Any, ...]) -> list[Any]:
    """New lists: pytorchvideo's networks of two pathways write into the one they are given."""
    return [list(each) if isinstance(each, list) else each for each in inputs]


def _moved(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(_moved(each, device) for each in inputs)
    return inputs.to(device)


def _go_with_the_asker() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def _set_limit(limit_bytes: int | None, device: str) -> None:
    """Where memory runs out, this process ends, and none that matters.

    Raises:
        ImportError: If the device is a GPU that this environment's torch does not see.
    """
    if os.path.exists("/proc/self/oom_score_adj"):
        try:
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                file.write("1000")
        except OSError:  # read-only in some containers
            pass
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ImportError(f"torch {torch.__version__} of this environment sees no GPU")
        torch.backends.cudnn.allow_tf32 = False  # float32 for everybody
        if limit_bytes is not None:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total))
    elif limit_bytes is not None and sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _used_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _of_process("VmRSS")


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.path.exists("/proc/self/clear_refs"):
        # Read-only in some containers: then the peak is that since the process began.
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")


def _peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _of_process("VmHWM")


def _of_process(name: str) -> int:
    """Resident memory now (VmRSS) or at most (VmHWM); without /proc always the most since the process began."""
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
