"""The stock Trainer with our order of clips, our loss, and a learning rate by depth and for the head."""

from typing import Any, cast

import torch
from transformers import Trainer
from transformers.trainer_optimizer import is_optimizer_factory

from railsformer.training.losses import ClipLoss
from railsformer.training.optimizers import parameter_groups
from railsformer.training.samplers import EpochSampler

__all__ = ["RailsformerTrainer"]


class RailsformerTrainer(Trainer):
    """The stock Trainer with our order of clips, our loss and our groups of parameters.

    `train_sampler` must be set before training; `clip_loss` may be, and is the model's own loss otherwise.
    """

    train_sampler: EpochSampler
    clip_loss: ClipLoss = ClipLoss()
    optimizer: torch.optim.Optimizer | None

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        return self.train_sampler

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """`clip_loss` in training; in evaluation plain cross-entropy, so that runs of other losses can be compared.

        With num_items_in_batch, the clips of the whole step that could be read, the result is a share of their mean:
        accumulation steps add up, and processes, which the Trainer averages, do so times their number. Without, it is
        the mean of the batch, and the Trainer averages over both.
        """
        if not model.training:
            # A lost video counts as one of class 0 here; `GuardedTrainer` takes the loss anew where there is one.
            outputs = model(pixel_values=inputs["pixel_values"], labels=inputs["labels"].clamp(min=0))
            return (outputs.loss, outputs) if return_outputs else outputs.loss
        outputs = model(pixel_values=inputs["pixel_values"])  # without labels: it knows no lost clips
        mixed = {name: inputs[name] for name in ("partner_labels", "mix") if name in inputs}
        loss = self.clip_loss(outputs.logits, inputs["labels"], num_clips=num_items_in_batch, **mixed)
        self.loss_is_scaled_for_ga = num_items_in_batch is not None
        if num_items_in_batch is not None:
            loss = loss * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As stock, with learning rates by depth and for the head, and tables that are not decayed."""
        if self.optimizer is not None:
            return self.optimizer
        target = self.model if model is None else model
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, target)
        if is_optimizer_factory(optimizer_class) or {"params", "model", "optimizer_dict"} & set(options):
            return self._own_groups_optimizer(model)
        groups = parameter_groups(
            target,
            num_blocks=self.model.config.num_hidden_layers,
            learning_rate=self.args.learning_rate,
            weight_decay=self.args.weight_decay,
            layer_decay=self.args.layer_decay,
            head_factor=self.args.head_learning_rate_factor,
        )
        self.optimizer = cast(torch.optim.Optimizer, optimizer_class(groups, **options))
        return self.optimizer

    def _own_groups_optimizer(self, model: Any) -> torch.optim.Optimizer:
        """An optimizer that groups parameters itself, such as GaLore or Muon, as stock builds it.

        Raises:
            ValueError: If learning rates by depth or for the head are asked for: it would pass over them.
        """
        for name in ("layer_decay", "head_learning_rate_factor"):
            if getattr(self.args, name) != 1.0:
                raise ValueError(
                    f"{name} must be 1 with optim {self.args.optim}, which groups parameters itself, got "
                    f"{getattr(self.args, name)}; take optim adamw_torch or sgd"
                )
        return cast(torch.optim.Optimizer, super().create_optimizer(model))
