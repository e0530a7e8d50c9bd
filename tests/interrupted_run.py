"""`railsformer train` that sends itself a real signal: `python interrupted_run.py WHEN STEP SIGNAL RANK FLAGS...`.

WHEN is `step`, before the step's weights change, or `save`, when the step's checkpoint is half written.
"""

import os
import signal
import sys

import psutil

from railsformer.cli import main
from railsformer.training.guarded_trainer import GuardedTrainer


class _Interrupted(GuardedTrainer):
    def _strike(self, when: str, step: int) -> None:
        if (when, str(step), str(self.args.process_index)) == (sys.argv[1], sys.argv[2], sys.argv[4]):
            number = signal.Signals[sys.argv[3]]
            for process in psutil.Process().children() if number == signal.SIGTERM else []:
                process.send_signal(number)  # schedulers signal every process of a run, workers that decode too
            os.kill(os.getpid(), number)

    def agree(self) -> None:
        self._strike("step", self.state.global_step + 1)
        super().agree()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        self._strike("save", self.state.global_step)
        super()._save_optimizer_and_scheduler(output_dir)


if __name__ == "__main__":
    import railsformer.training.trainer

    railsformer.training.trainer.GuardedTrainer = _Interrupted
    sys.exit(main(["train", *sys.argv[5:]]))
