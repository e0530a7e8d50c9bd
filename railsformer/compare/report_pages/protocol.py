"""What stands over every table: data, split, seeds, budget, hardware."""

from collections.abc import Mapping
from typing import Any

from railsformer.evaluation.report_pages.words import counted

__all__ = ["about", "cost_protocol", "hardware_words", "protocol_line", "protocol_lines", "told"]

_MISSING = "not stated"
_PASSES = {"forward": "forward pass", "training": "training step"}
# Told in `protocol_line`, or of use to programs alone.
_IN_LINE = ("data", "dataset", "counts", "split", "split_kind", "num_groups", "seeds", "budget", "hardware", "quick")


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """Data, split, seeds, budget and hardware, without which a figure means nothing; what is not stated says so."""
    named = {
        "Data": _data(protocol),
        "Split": _split(protocol),
        "Seeds": told(protocol.get("seeds")),
        "Budget": _budget(protocol.get("budget")),
        "Hardware": hardware_words(protocol.get("hardware")),
    }
    return " ".join(f"{name}: {value or _MISSING}." for name, value in named.items())


def cost_protocol(cost: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol of the section of cost, which needs no videos, in the words of the others."""
    protocol = dict(cost["protocol"])
    threads, limit = protocol.pop("threads", None), protocol.pop("memory_limit_gib", None)
    repeats = [max((row.get(f"{mode}_repeats") or 0 for row in cost["rows"]), default=0) for mode in _PASSES]
    timed = " and ".join(
        counted(most, name, name + ("es" if name.endswith("s") else "s"))
        for most, name in zip(repeats, _PASSES.values(), strict=True) if most
    )  # fmt: skip
    limited = f"{told(limit)} GiB a process" if limit else ""
    hardware = [hardware_words(protocol.get("hardware")), counted(threads, "thread", "threads") if threads else ""]
    return {
        "data": "random pixels and random weights, no videos",
        "split": "none",
        "seeds": [0],
        "budget": ", ".join(filter(None, [f"median of up to {timed}" if timed else "counted only", limited])),
        **protocol,
        "hardware": ", ".join(filter(None, hardware)),
    }


def about(protocol: Mapping[str, Any]) -> str:
    """Data and split of a part in a few words."""
    split, counts = told(protocol.get("split")), protocol.get("counts") or {}
    if counts.get(split):
        of = f"{counts[split]:,} videos of its {split} split"
    else:
        of = f"{split} split" if split and " " not in split else split
    return ", ".join(filter(None, (told(protocol.get("data") or protocol.get("dataset")), of))) or f"data {_MISSING}"


def protocol_lines(protocol: Mapping[str, Any]) -> list[str]:
    """Everything else that is known of how a part was measured, one sentence each."""
    rest = {name: told(value) for name, value in protocol.items() if name not in _IN_LINE}
    return [f"{name[:1].upper()}{name[1:].replace('_', ' ')}: {value}." for name, value in rest.items() if value]


def told(value: Any) -> str:
    """A value in words: lists with commas, mappings as `name value`, nothing as nothing."""
    if value is None or (isinstance(value, (str, list, tuple, dict)) and not value):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        pairs = ((str(name).replace("_", " "), told(one)) for name, one in value.items())
        return ", ".join(f"{name} {one}" for name, one in pairs if one)
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, map(told, value)))
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value).rstrip(". ")


def hardware_words(hardware: Any) -> str:
    """What it ran on: `AMD EPYC 9B14, 2 threads of 2 cores, 8 GiB`; of several machines, all."""
    if isinstance(hardware, (list, tuple)):
        return "; ".join(map(hardware_words, hardware))
    if not isinstance(hardware, Mapping):
        return told(hardware)
    rest = dict(hardware)
    parts = [told(rest.pop("processor", None)), told(rest.pop("gpus", None))]
    cores, threads, memory = (rest.pop(key, None) for key in ("cores", "threads", "memory_gib"))
    if threads:
        parts.append(
            counted(threads, "thread", "threads") + (f" of {counted(cores, 'core', 'cores')}" if cores else "")
        )
    elif cores:
        parts.append(counted(cores, "core", "cores"))
    parts += [f"{told(memory)} GiB" if memory else "", told(rest)]
    return ", ".join(filter(None, parts))


def _data(protocol: Mapping[str, Any]) -> str:
    counts = protocol.get("counts") or {}
    split = protocol.get("split")
    sides = [f"{counts['train']:,} videos to train on" if counts.get("train") else ""]
    sides.append(f"{counts[split]:,} to test on" if counts.get(split) else "")
    return ", ".join(filter(None, (told(protocol.get("data") or protocol.get("dataset")), *sides)))


def _split(protocol: Mapping[str, Any]) -> str:
    groups = protocol.get("num_groups")
    parts = [told(protocol.get("split")), told(protocol.get("split_kind"))]
    return ", ".join(filter(None, [*parts, counted(groups, "group", "groups") if groups else ""]))


def _budget(budget: Any) -> str:
    if not isinstance(budget, Mapping):
        return told(budget)
    rest = dict(budget)
    epochs, steps, clips = (rest.pop(key, None) for key in ("epochs", "max_steps", "clips_a_step"))
    parts = [
        f"{told(float(epochs))} {'epoch' if epochs == 1 else 'epochs'}" if epochs else "",
        counted(steps, "step", "steps") if steps else "",
        f"{counted(clips, 'clip', 'clips')} a step" if clips else "",
        told(rest),
    ]
    return ", ".join(filter(None, parts))
