"""What a run costs: seconds, peak memory, and energy where it can be read."""

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from railsformer.training.memory import peak_rss_bytes

__all__ = ["EnergyMeter", "RunRecorder"]

POWERCAP = Path("/sys/class/powercap")
# Intel's counters wrap around after a few hundred kilojoules: at 250 W after a quarter of an hour.
READ_EVERY_SECONDS = 30.0
UNSURE_AFTER_SECONDS = 600.0


class EnergyMeter:
    """Joules since it was made, of the whole machine's packages and GPUs, whoever used them.

    Args:
        gpus: Indices of the CUDA devices to read; needs pynvml (the package nvidia-ml-py).
        powercap: Where Linux shows the counters of the processor's packages; often for root alone.
    """

    def __init__(self, gpus: Sequence[int] = (), *, powercap: Path = POWERCAP) -> None:
        self._packages = {zone: value for zone in _packages(powercap) if (value := _microjoules(zone)) is not None}
        self._gpus = {handle: value for handle in _gpu_handles(gpus) if (value := _millijoules(handle)) is not None}
        self._cpu_joules, self._gpu_joules = 0.0, 0.0

    def read(self) -> dict[str, float]:
        """Joules by `cpu` and `gpu`; only those that can be read."""
        for zone, before in list(self._packages.items()):
            now = _microjoules(zone)
            if now is not None:
                wrapped = _number(zone / "max_energy_range_uj") or 0
                self._cpu_joules += (now - before if now >= before else now + wrapped - before) / 1e6
                self._packages[zone] = now
        for handle, before in list(self._gpus.items()):
            now = _millijoules(handle)
            if now is not None:
                self._gpu_joules += (now - before) / 1e3
                self._gpus[handle] = now
        found = {"cpu": self._cpu_joules} if self._packages else {}
        return found | ({"gpu": self._gpu_joules} if self._gpus else {})


class RunRecorder(TrainerCallback):
    """Measures a run from its first step to its last; of a resumed run, what came after the resume.

    Attributes:
        record: After training: `first_step` and `last_step`, `seconds` with evaluation and saving, `processes`,
            `device`, `peak_rss_bytes` of this process since it began, `peak_cuda_bytes` or None, and `energy_joules`
            by part.
    """

    def __init__(self) -> None:
        self.record: dict[str, Any] = {}
        self._meter: EnergyMeter | None = None
        self._began = self._last_read = 0.0
        self._first_step = 0

    def begin(self, device: torch.device, *, first_step: int = 0, is_main_process: bool = True) -> None:
        """Start every clock."""
        self._first_step = first_step
        self._began = self._last_read = time.perf_counter()
        cuda = device.type == "cuda"
        if is_main_process:
            self._meter = EnergyMeter(range(torch.cuda.device_count()) if cuda else ())
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)

    def read_energy(self) -> None:
        """Read the counters before they wrap around."""
        now = time.perf_counter()
        if self._meter and now - self._last_read > READ_EVERY_SECONDS:
            self._meter.read()
            self._last_read = now

    def end(self, device: torch.device, *, last_step: int = 0, processes: int = 1) -> None:
        """Sum up."""
        cuda = device.type == "cuda"
        energy = self._meter.read() if self._meter else {}
        if time.perf_counter() - self._last_read > UNSURE_AFTER_SECONDS:
            energy.pop("cpu", None)  # may have wrapped around unseen
        self.record = {
            "first_step": self._first_step,
            "last_step": last_step,
            "seconds": time.perf_counter() - self._began,
            "processes": processes,
            "device": torch.cuda.get_device_name(device) if cuda else str(device),
            "peak_rss_bytes": peak_rss_bytes(),
            "peak_cuda_bytes": torch.cuda.max_memory_reserved(device) if cuda else None,
            "energy_joules": energy,
        }

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin."""
        self.begin(args.device, first_step=state.global_step, is_main_process=state.is_world_process_zero)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the counters."""
        self.read_energy()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End."""
        self.end(args.device, last_step=state.global_step, processes=args.world_size)


def _packages(powercap: Path) -> list[Path]:
    """Whole packages; their cores and memory controllers, intel-rapl:0:0, are part of them."""
    if not powercap.is_dir():
        return []
    return sorted(zone for zone in powercap.iterdir() if re.fullmatch(r"intel-rapl:\d+", zone.name))


def _microjoules(zone: Path) -> int | None:
    return _number(zone / "energy_uj")


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, or it is for root alone."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _gpu_handles(gpus: Sequence[int]) -> Iterator[Any]:
    """NVML's names of CUDA devices, by their unique ids: CUDA_VISIBLE_DEVICES changes indices."""
    if not gpus:
        return
    with contextlib.suppress(ImportError):
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            for index in gpus:
                yield pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")


def _millijoules(handle: Any) -> int | None:
    """Energy since the driver was loaded; None on a GPU that does not count it."""
    import pynvml

    try:
        return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    except pynvml.NVMLError:
        return None
