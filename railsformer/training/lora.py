"""Low-rank adapters through `peft` (Hu et al. 2021, arXiv 2106.09685): the trunk stays, its adapters are trained.

The adapters are put into our model in place instead of wrapping it, so that checkpoints of a run hold the adapters,
the head and the time table together, and a resumed run or its best epoch has all of them back.
"""

import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from railsformer.model.layers_railsformer import RailsformerExtraDense
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import RunArguments

__all__ = ["ADAPTER_FOLDER", "DEFAULT_TARGETS", "add_lora", "merge_lora"]

ADAPTER_FOLDER = "adapter"
DEFAULT_TARGETS = ("qkv", "output", "dense")
# What each target is called in a block: attention steps differ in the prefix of their names.
_NAMES = {
    "qkv": re.compile(r"\.layer\.\d+\.\w*attention\.attention\.qkv$"),
    "output": re.compile(r"\.layer\.\d+\.\w*attention\.output\.dense$"),
    "dense": re.compile(r"\.layer\.\d+\.\w+_dense$"),
    "mlp": re.compile(r"\.layer\.\d+\.(intermediate|output)\.dense$"),
}
_TIME_TABLE = "timesformer.embeddings.time_embeddings"


def add_lora(model: RailsformerForVideoClassification, run: RunArguments) -> None:
    """Freeze the trunk and give its layers adapters, in place; the head and the time table are trained whole.

    Args:
        model: The model to train.
        run: With lora_rank, lora_alpha and lora_targets.

    Raises:
        ValueError: If peft is not installed, a target is not in this model, extra dense layers that are zero would
            keep their steps silent, or the run is sharded.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(
            f"lora_rank needs peft, which is not installed, got {run.lora_rank}; pip install 'railsformer[lora]'"
        ) from error
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise ValueError(f"lora_rank must not be given with FSDP, got {run.lora_rank}; one GPU holds a frozen trunk")
    config = LoraConfig(
        r=int(run.lora_rank or 0),
        lora_alpha=run.lora_alpha or 2 * int(run.lora_rank or 0),
        target_modules=_layers(model, tuple(run.lora_targets) or DEFAULT_TARGETS),
        base_model_name_or_path=model.config._name_or_path or None,
    )
    inject_adapter_in_model(config, model)  # freezes all that is no adapter
    for name, parameter in model.named_parameters():
        if name == _TIME_TABLE or name.startswith("classifier."):
            parameter.requires_grad_(True)


def merge_lora(model: RailsformerForVideoClassification, *, adapter_dir: Path | None) -> None:
    """Add each adapter to its layer, in place, and save the adapters, the head and the embeddings beside it first.

    What is left is an ordinary model. With the base at the same clip size and labels,
    `PeftModel.from_pretrained(base, adapter_dir)` gives the same logits.

    Args:
        model: A model that `add_lora` was called on.
        adapter_dir: Folder of the adapters, in the format of peft; None on processes that do not write.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    if adapter_dir is not None:
        _save_adapters(model, adapter_dir)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
    del model.peft_config


def _layers(model: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Names of the layers that get adapters."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen: list[str] = []
    for target in targets:
        found = [name for name in linear if _NAMES[target].search(name)]
        if not found and targets != DEFAULT_TARGETS:  # not every scheme has extra dense layers
            raise ValueError(f"lora_targets names {target!r}, which this model has no layers of; leave it out")
        chosen += found
    # Behind a zero layer nothing reaches the loss, and no gradient reaches what is before it.
    silent = [
        name
        for name, module in linear.items()
        if isinstance(module, RailsformerExtraDense) and name not in chosen and not module.weight.any()
    ]
    if silent:
        raise ValueError(
            f"lora_targets must hold 'dense': {len(silent)} extra dense layers start at zero, {silent[0]} first, and "
            f"their attention steps would never be heard; got {' '.join(targets)}"
        )
    return chosen


def _save_adapters(model: Any, adapter_dir: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors in the format of peft."""
    from peft.utils import SAFETENSORS_WEIGHTS_NAME

    whole = ["classifier"]
    weights: dict[str, torch.Tensor] = {}
    if dict(model.named_parameters()).get(_TIME_TABLE) is not None:
        whole.append("timesformer.embeddings")  # peft saves modules, and the table is only a parameter of one
    for name, tensor in model.state_dict().items():
        if ".lora_" in name or name.startswith(tuple(f"{module}." for module in whole)):
            weights[f"base_model.model.{name.replace('.default.', '.')}"] = tensor.detach().cpu().contiguous()
    adapter_dir.mkdir(parents=True, exist_ok=True)
    save_file(weights, adapter_dir / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    config = model.peft_config["default"]
    config.modules_to_save, config.inference_mode = whole, True
    config.save_pretrained(str(adapter_dir))
