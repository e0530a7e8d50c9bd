"""Every setting of a run: three dataclasses, filled from defaults, then a YAML recipe, then flags."""

import argparse
import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

__all__ = ["DataArguments", "ModelArguments", "RunArguments", "Settings", "parse_settings", "print_help"]

STARTS = ("model", "image_model", "from_scratch")
# Figures of validation that may choose the epoch, by their names in the report.
SELECTION_FIGURES = (
    "f1_macro", "accuracy", "balanced_accuracy", "f1_weighted", "f1_micro", "map", "loss", "negative_log_likelihood",
    "calibration_error", "brier",
)  # fmt: skip
LOWER_IS_BETTER = ("loss", "negative_log_likelihood", "calibration_error", "brier")
LABEL_FIGURES = ("f1", "recall", "precision")  # of one label, such as recall/Cabin-Worker
RANKING_FIGURE = "average_precision"  # likewise, but of the scores
TOP_K = "top_k"  # with its k, such as top_k/2
_PARTED_FIGURES = (*(f"{name}/LABEL" for name in (*LABEL_FIGURES, RANKING_FIGURE)), f"{TOP_K}/K")
# Layers of a block that adapters may go to; `dense` are the extra ones behind every attention step but the last.
LORA_TARGETS = ("qkv", "output", "dense", "mlp")
# Flags of TrainingArguments that would go around something of ours, and what to do instead.
REFUSED = {
    "remove_unused_columns": "the video would be dropped before it is read",
    "dataloader_drop_last": "validation videos would be dropped; our order fills the last batch of training anyway",
    "push_to_hub": "upload with `railsformer push RUN USER/NAME`, which is private unless you say --public",
    "enable_jit_checkpoint": "SIGTERM saves and exits with 143 without it",
    "ignore_data_skip": "a resumed run would show other clips; leave it out",
    "auto_find_batch_size": "a run that changes its batch cannot be resumed; take what --plan says",
    "hub_token": "it would be written beside the model; set HF_TOKEN or run `hf auth login`",
}


@dataclass
class ModelArguments:
    """What to start from, and the shape of a clip."""

    model: str | None = field(
        default=None, metadata={"help": "TimeSformer checkpoint to start from: Hub id or folder"}
    )
    image_model: str | None = field(
        default=None, metadata={"help": "Image transformer to start from (ViT, DeiT, DINOv2): Hub id or folder"}
    )
    from_scratch: bool = field(default=False, metadata={"help": "Start from random weights of the sizes below"})
    attention_type: str | None = field(
        default=None, metadata={"help": "Attention scheme; the checkpoint's, or divided_space_time"}
    )
    num_frames: int | None = field(default=None, metadata={"help": "Frames of a clip; the checkpoint's, or 8"})
    image_size: int | None = field(default=None, metadata={"help": "Side in pixels; the checkpoint's, or 224"})
    frame_interval: int | None = field(
        default=None, metadata={"help": "Steps of the nominal rate between frames; the checkpoint's, or 32"}
    )
    nominal_fps: float | None = field(
        default=None, metadata={"help": "Rate in which frame_interval counts, for any video; the checkpoint's, or 30"}
    )
    short_video: Literal["hold", "loop", "stretch"] | None = field(
        default=None,
        metadata={
            "help": "What fills a clip that is longer than its video; the checkpoint's, or hold (the last picture)"
        },
    )
    clip_sampling: Literal["interval", "segments"] | None = field(
        default=None,
        metadata={
            "help": "interval: frames a fixed time apart; segments: one from each of num_frames equal parts, as on "
            "SSv2; the checkpoint's, or interval"
        },
    )
    position_embedding: str | None = field(default=None, metadata={"help": "space_time, space or none"})
    time_table: Literal["zeros", "sinusoidal"] = field(
        default="zeros",
        metadata={
            "help": "What a time table that the start lacks begins as: zeros, as in the paper, or sines and cosines "
            "as large as the position table, from which tiny networks and short trainings learn order sooner"
        },
    )
    stochastic_depth_rate: float | None = field(
        default=None, metadata={"help": "Drop path of the last block; the checkpoint's, or 0"}
    )
    negative_labels: list[str] = field(
        default_factory=list, metadata={"help": "Labels that mean 'nothing dangerous'; Other if there is such a label"}
    )
    hidden_size: int = field(default=768, metadata={"help": "From scratch: width"})
    num_hidden_layers: int = field(default=12, metadata={"help": "From scratch: blocks"})
    num_attention_heads: int = field(default=12, metadata={"help": "From scratch: heads"})
    intermediate_size: int = field(default=3072, metadata={"help": "From scratch: width of the MLP"})
    patch_size: int = field(default=16, metadata={"help": "From scratch: side of a patch in pixels"})

    def __post_init__(self) -> None:
        """Exactly one start, and a clip that exists."""
        chosen = [name for name in STARTS if getattr(self, name)]
        if len(chosen) != 1:
            raise ValueError(
                f"exactly one of --model, --image_model and --from_scratch must be given, got "
                f"{' and '.join(chosen) or 'none'}"
            )
        for name in ("num_frames", "image_size", "frame_interval", "nominal_fps"):
            _check_range(self, name, above=0)
        _check_range(self, "stochastic_depth_rate", least=0, below=1)


@dataclass
class DataArguments:
    """What to train on, and what training varies."""

    dataset: str | None = field(default=None, metadata={"help": "Dataset folder of `railsformer build`, or Hub id"})
    min_short_side_px: int | None = field(
        default=None, metadata={"help": "Least short side before the random crop; 256/224 of image_size"}
    )
    max_short_side_px: int | None = field(default=None, metadata={"help": "Largest; 320/224 of image_size"})
    eval_short_side_px: int | None = field(
        default=None, metadata={"help": "Short side before the centre crop of evaluation; image_size"}
    )
    flip: bool = field(default=False, metadata={"help": "Mirror half of the training clips"})
    light: float = field(default=0.0, metadata={"help": "Strength of random brightness, contrast and gamma, 0 to 1"})
    grey: float = field(default=0.0, metadata={"help": "Share of training clips shown without colour"})
    class_balance: Literal["none", "loss", "sampler", "both"] = field(
        default="none",
        metadata={
            "help": "loss: weigh classes by their effective number of clips; sampler: draw labels, and groups within "
            "a label, evenly"
        },
    )
    effective_number_beta: float | None = field(
        default=None, metadata={"help": "With class_balance loss or both: 0 weighs classes alike, near 1 by 1/n; .999"}
    )
    mixup_alpha: float = field(
        default=0.0, metadata={"help": "Mix each training clip with another, by a share of Beta(alpha, alpha); 0: off"}
    )
    repeated_augmentation: int = field(
        default=1, metadata={"help": "Draws of each clip that follow each other; an epoch is as many times longer"}
    )

    def __post_init__(self) -> None:
        """A dataset must be named, and what training varies must exist."""
        if not self.dataset:
            raise ValueError("--dataset must name a folder that `railsformer build` wrote, or a Hub dataset; got none")
        _check_range(self, "mixup_alpha", least=0)
        _check_range(self, "repeated_augmentation", least=1)
        _check_range(self, "effective_number_beta", least=0, below=1)
        if self.effective_number_beta is not None and self.class_balance not in ("loss", "both"):
            raise ValueError(
                f"effective_number_beta goes with class_balance loss or both, got {self.effective_number_beta} with "
                f"class_balance {self.class_balance}"
            )


@dataclass
class RunArguments(TrainingArguments):
    """`TrainingArguments` of transformers with these defaults changed.

    eval_strategy and save_strategy epoch; load_best_model_at_end with metric_for_best_model f1_macro;
    remove_unused_columns False (the video would be dropped before it is read); logging_steps 10;
    dataloader_num_workers 2; dataloader_pin_memory only with a GPU; save_total_limit 1; warmup_steps 0.1 (a share of
    all steps).
    """

    trainable: Literal["all", "time", "head"] = field(
        default="all",
        metadata={"help": "time: only time attention, its dense layers, the time table and the head; head: the head"},
    )
    trainable_blocks: int | None = field(
        default=None, metadata={"help": "With trainable=time: only in this many upper blocks"}
    )
    head_learning_rate_factor: float = field(
        default=1.0, metadata={"help": "Learning rate of the new head over that of the trunk"}
    )
    layer_decay: float = field(
        default=1.0, metadata={"help": "Learning rate of a block over that of the block above it; 1: the same for all"}
    )
    focal_gamma: float = field(
        default=0.0, metadata={"help": "Focal loss: how much less clips count that are already right; 0: off, often 2"}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations in a row without a better figure"}
    )
    lora_rank: int | None = field(
        default=None,
        metadata={"help": "Train low-rank adapters of this rank, the head and the time table; needs peft"},
    )
    lora_alpha: float | None = field(
        default=None, metadata={"help": "With lora_rank: its product counts alpha / rank times; twice the rank"}
    )
    lora_targets: list[str] = field(
        default_factory=list,
        metadata={"help": f"With lora_rank: which layers of every block, of {', '.join(LORA_TARGETS)}; not mlp"},
    )
    cache_embeddings: bool = field(
        default=False,
        metadata={"help": "With trainable=head: compute each clip's embedding once and fit the head on them"},
    )
    embedding_views: int | None = field(
        default=None, metadata={"help": "With cache_embeddings: evaluation clips of a training video; 1"}
    )
    embedding_draws: int | None = field(
        default=None, metadata={"help": "With cache_embeddings: augmented clips of a training video beside them; 0"}
    )
    num_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of one process; cores over local processes if not given"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: the video is a column"})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate on validation"})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint"})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept beside the best"})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the best epoch, not the last"})
    metric_for_best_model: str | None = field(
        default="f1_macro",
        metadata={"help": f"Figure that chooses the epoch: {', '.join((*SELECTION_FIGURES, *_PARTED_FIGURES))}"},
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two lines of the log"})
    dataloader_num_workers: int = field(default=2, metadata={"help": "Processes that decode, for each training one"})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Pin memory; only of use beside a GPU"}
    )
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of warm-up, or a share of all steps below 1"})
    report_to: list[str] = field(
        default_factory=list,
        metadata={"help": "Where figures go beside the run folder: trackio tensorboard ..."},
    )
    # Going on after a kill, and bad clips.
    resume: bool = field(
        default=False,
        metadata={"help": "Go on from the newest whole checkpoint of output_dir; from the start where there is none"},
    )
    max_lost_share: float = field(
        default=0.05, metadata={"help": "Share of an epoch's clips that may turn out unreadable before the run stops"}
    )
    allow_unseen_labels: bool = field(
        default=False, metadata={"help": "Let validation hold labels that training has no clip of"}
    )

    def __post_init__(self) -> None:
        """Check what transformers does not."""
        for name, reason in REFUSED.items():
            if getattr(self, name):
                raise ValueError(f"{name} must not be set: {reason}")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            _check_range(self, name, least=1)
        for name in ("num_train_epochs", "learning_rate", "head_learning_rate_factor", "save_steps", "lora_alpha"):
            _check_range(self, name, above=0)
        _check_range(self, "num_threads", least=1, most=1024)  # far more of them end the process with a crash
        for name in ("dataloader_num_workers", "max_grad_norm", "weight_decay", "focal_gamma", "embedding_draws"):
            _check_range(self, name, least=0)
        for name in ("early_stopping_patience", "lora_rank", "embedding_views"):
            _check_range(self, name, least=1)
        _check_range(self, "label_smoothing_factor", least=0, below=1)
        _check_range(self, "layer_decay", above=0, most=1)
        _check_range(self, "max_lost_share", least=0, most=1)
        for pair in (self.optim_args or "").split(","):
            if self.optim_args and not all(pair.partition("=")):
                raise ValueError(
                    f"optim_args must be pairs such as momentum=0.9,nesterov=True, got {self.optim_args!r}"
                )
        self._check_selection()
        self._check_lora()
        # Stock refuses bf16 where there is no GPU unless told so, though many CPUs multiply in bfloat16; and launchers
        # do not say that several processes run on the CPU, where each would take itself for the only one.
        if torch.accelerator.current_accelerator(check_available=True) is None:
            self.use_cpu = True
        if self.trainable_blocks is not None and (self.trainable != "time" or self.trainable_blocks < 1):
            raise ValueError(
                f"trainable_blocks must be at least 1 and goes with trainable=time, got {self.trainable_blocks} with "
                f"trainable={self.trainable}"
            )
        super().__post_init__()

    def _check_selection(self) -> None:
        """A figure that exists, and evaluations where something waits for them."""
        figure = (self.metric_for_best_model or "").removeprefix("eval_")
        kind, _, part = figure.partition("/")
        parted = (kind in (*LABEL_FIGURES, RANKING_FIGURE) and part) or (kind == TOP_K and part.isdecimal())
        if figure not in SELECTION_FIGURES and not parted:
            raise ValueError(
                f"metric_for_best_model must be one of {', '.join(SELECTION_FIGURES)}, or "
                f"{', '.join(_PARTED_FIGURES)}, got {self.metric_for_best_model!r}"
            )
        if getattr(self, "greater_is_better", None) is None:  # stock goes by the last letters, which may be a label's
            self.greater_is_better = figure not in LOWER_IS_BETTER
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            raise ValueError(
                f"early_stopping_patience needs evaluations, got {self.early_stopping_patience} with eval_strategy no"
            )

    def _check_lora(self) -> None:
        """Adapters of layers that exist, in a trunk that is otherwise frozen."""
        unknown = [name for name in self.lora_targets if name not in LORA_TARGETS]
        if unknown:
            raise ValueError(f"lora_targets must be of {', '.join(LORA_TARGETS)}, got {unknown[0]!r}")
        if self.lora_rank is None:
            for name in ("lora_alpha", "lora_targets"):
                if getattr(self, name):
                    raise ValueError(f"{name} goes with lora_rank, got {getattr(self, name)} without it")
        elif self.trainable != "all":
            raise ValueError(
                f"lora_rank must not be given with trainable={self.trainable}: adapters freeze the trunk themselves; "
                f"leave trainable out"
            )


class Settings(NamedTuple):
    """The three dataclasses, and the values that were given."""

    model: ModelArguments
    data: DataArguments
    run: RunArguments
    given: dict[str, Any]


def parse_settings(argv: Sequence[str]) -> Settings:
    """Parse flags over a YAML recipe over defaults.

    Args:
        argv: Flags; `--config FILE` names the recipe.

    Raises:
        FileNotFoundError: If the recipe is not there.
        ValueError: If a key or flag is unknown, or a value is of the wrong kind.
    """
    flags = _parse(argv)
    recipe = _parse_recipe(flags.pop("config")) if "config" in flags else {}
    if any(name in flags for name in STARTS):  # a start on the command line replaces the recipe's
        recipe = {key: value for key, value in recipe.items() if key not in STARTS}
    values = {**recipe, **flags}
    if not values.get("output_dir"):
        raise ValueError("--output_dir must name the folder for the run, got none")
    settings = Settings(
        model=_build(ModelArguments, values),
        data=_build(DataArguments, values),
        run=_build(RunArguments, values),
        given=values,
    )
    _check_cache(settings)
    return settings


def print_help() -> None:
    """Print every flag of `railsformer train`."""
    _parser().print_help()


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read a flat YAML file.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is not a flat mapping with each key once.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no such recipe; configs/ holds those that come with railsformer")
    try:
        tree = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a recipe is a flat mapping of keys to values, got {type(content).__name__}")
    keys = [key.value for key, _ in tree.value] if tree else []
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ValueError(f"{path}: key {twice[0]!r} is given twice; keep one of them")
    return {str(key): value for key, value in content.items()}


def _parse_recipe(path: str) -> dict[str, Any]:
    """A recipe's values through the same parser as flags, so that types and choices are checked alike."""
    recipe = read_recipe(path)
    known = [action.dest for action in _parser()._actions if action.dest not in ("help", "config")]
    argv: list[str] = []
    for key, value in recipe.items():
        if key not in known:
            raise ValueError(f"{path}: unknown key {key!r}{_did_you_mean(key, known)}")
        if isinstance(value, list):
            argv += [f"--{key}", *map(str, value)]
        elif value is not None:  # an empty value is the default
            argv.append(f"--{key}={json.dumps(value) if isinstance(value, (dict, bool)) else value}")
    try:
        return _parse(argv)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parser() -> HfArgumentParser:
    parser = HfArgumentParser(
        [ModelArguments, DataArguments, RunArguments],
        prog="railsformer train",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--config", help="recipe: a flat YAML file of the keys below; flags win over it")
    return parser


_NOT_GIVEN = object()


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    """Only the flags that were given, parsed to their types."""
    parser = _parser()
    for action in parser._actions:
        action.default = _NOT_GIVEN
        action.required = False
    try:
        namespace, unknown = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        raise ValueError(f"unknown flag {unknown[0]!r}{_did_you_mean(unknown[0], known)}")
    return {key: value for key, value in vars(namespace).items() if value is not _NOT_GIVEN}


def _build(kind: type, values: dict[str, Any]) -> Any:
    """One dataclass from the values that are its own."""
    names = {item.name for item in fields(kind) if item.init}
    try:
        return kind(**{key: value for key, value in values.items() if key in names})
    except ImportError as error:  # such as that of deepspeed
        raise ValueError(f"a package is not installed: {' '.join(str(error).split())}") from error


def _check_cache(settings: Settings) -> None:
    """Refuse what a head on cached embeddings would pass over.

    Raises:
        ValueError: With the setting.
    """
    run, data = settings.run, settings.data
    if not run.cache_embeddings:
        for name in ("embedding_views", "embedding_draws"):
            if getattr(run, name) is not None:
                raise ValueError(f"{name} goes with cache_embeddings, got {getattr(run, name)} without it")
        if run.trainable == "head" and run.layer_decay != 1.0:
            raise ValueError(f"layer_decay must be 1 with trainable=head: nothing lies below, got {run.layer_decay}")
        return
    if run.trainable != "head":
        raise ValueError(f"cache_embeddings goes with trainable=head: the trunk must not move, got {run.trainable}")
    passed_over = (
        *((data, name) for name in ("mixup_alpha", "repeated_augmentation")),
        *((run, name) for name in ("focal_gamma", "label_smoothing_factor", "layer_decay", "early_stopping_patience")),
        (run, "lora_rank"),
    )
    stock = {item.name: item.default for kind in (DataArguments, RunArguments) for item in fields(kind)}
    for arguments, name in passed_over:
        if (value := getattr(arguments, name)) != stock[name]:
            raise ValueError(
                f"{name} must not be given with cache_embeddings, where a head is fitted on finished embeddings, "
                f"got {value}"
            )


def _check_range(
    arguments: Any,
    name: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> None:
    """Refuse a number that is not finite or out of range; None means 'not given'.

    Raises:
        ValueError: With name, bound and value.
    """
    value = getattr(arguments, name)
    if value is None or (math.isfinite(value) and least <= value <= most and above < value < below):
        return
    bounds = [f"at least {least}"] if least > -math.inf else [f"above {above}"]
    bounds += [f"below {below}"] if below < math.inf else []
    bounds += [f"at most {most}"] if most < math.inf else []
    raise ValueError(f"{name} must be {' and '.join(bounds)}, got {value}")


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
