"""The stock Trainer with our order of clips, a loss that must be a number, and a learning rate for the head."""

from typing import Any, cast

import torch
from transformers import Trainer

from railsformer.training.samplers import EpochSampler

__all__ = ["RailsformerTrainer"]


class RailsformerTrainer(Trainer):
    """The stock Trainer with our order of clips and a learning rate of its own for the head."""

    train_sampler: EpochSampler
    optimizer: torch.optim.Optimizer | None

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        return self.train_sampler

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As stock, but a loss that is not a number stops the run before it is written into the weights for good.

        Raises:
            ValueError: With the step.
        """
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}: training diverged; "
                f"lower learning_rate {self.args.learning_rate:g}"
            )
        return cast(torch.Tensor, loss)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As stock, with the head's parameters in groups of their own."""
        factor = self.args.head_learning_rate_factor
        if self.optimizer is not None or factor == 1.0:
            return cast(torch.optim.Optimizer, super().create_optimizer(model))
        target = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(target))
        groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in target.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(("classifier." in name, name in decayed), []).append(parameter)
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, target)
        optimizer = optimizer_class(
            [
                {
                    "params": parameters,
                    "weight_decay": self.args.weight_decay if decays else 0.0,
                    "lr": self.args.learning_rate * (factor if is_head else 1.0),
                }
                for (is_head, decays), parameters in groups.items()
            ],
            **options,
        )
        self.optimizer = optimizer
        return cast(torch.optim.Optimizer, optimizer)
