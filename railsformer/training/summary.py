"""A finished run on one page: summary.md with its curves, from what lies in the run folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from railsformer.training.curves import save_curves

__all__ = ["write_summary"]

SUMMARY_FILE = "summary.md"
_CLASS_FIGURES = ("precision", "recall", "f1", "support")
_HEADLINE = {
    "f1_macro": "macro F1", "balanced_accuracy": "balanced accuracy", "accuracy": "accuracy",
    "f1_weighted": "weighted F1", "loss": "loss",
}  # fmt: skip
_MAX_EPOCH_ROWS = 30
_MAX_LOST = 20


@dataclass(frozen=True)
class _Run:
    """What a run folder tells."""

    folder: Path
    facts: Mapping[str, Any]
    log_history: Sequence[Mapping[str, Any]]
    recipe: str

    @property
    def head(self) -> Mapping[str, Any]:
        """How a head was fitted on cached embeddings; empty where there were steps instead."""
        return self.facts.get("head") or {}

    @property
    def figures(self) -> dict[str, str]:
        """Words of the figures that are shown, among them the one that chose the weights."""
        recipe = yaml.safe_load(self.recipe)
        named = recipe.get("metric_for_best_model") if isinstance(recipe, dict) else None
        chosen = str(named or "f1_macro").removeprefix("eval_")
        return _HEADLINE if chosen in _HEADLINE else {**_HEADLINE, chosen: chosen}

    @property
    def evaluations(self) -> list[Mapping[str, Any]]:
        return [log for log in self.log_history if "eval_loss" in log or "eval_f1_macro" in log]

    @property
    def kept(self) -> dict[str, Any]:
        """The log of the evaluation of the weights that were kept; empty where there was none."""
        if self.head:
            return dict(self.facts.get("validation") or {})
        epoch = (self.facts.get("validation") or {}).get("epoch")
        chosen = [log for log in self.evaluations if log.get("epoch") == epoch] or self.evaluations[-1:]
        return {key.removeprefix("eval_"): value for key, value in chosen[-1].items()} if chosen else {}


def write_summary(run_dir: str | Path) -> Path:
    """Write summary.md, curves.png and curves.svg into a run folder, over those that are there.

    Args:
        run_dir: Folder with run.json, train_config.yaml and, but for a head on cached embeddings, trainer_state.json,
            as `train` leaves it.

    Returns:
        The path of summary.md.

    Raises:
        FileNotFoundError: If one of them is not there.
        ValueError: If one of them is damaged.
    """
    run = _read_run(Path(run_dir))
    name = run.folder.resolve().name
    best = run.kept.get("epoch")
    drawn = save_curves(run.folder, run.log_history, title=name, best_epoch=best)
    parts = [f"# {name}", _headline(run)]
    if drawn:
        parts.append("![Losses, figures on validation and learning rate over epochs](curves.png)\n\n[SVG](curves.svg)")
    parts += [
        _classes(run),
        _epochs(run),
        _heads(run),
        _cost(run),
        _data(run),
        _lost(run),
        _lost_validation(run),
        _versions(run),
        _recipe(run),
    ]
    path = run.folder / SUMMARY_FILE
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return path


def _read_run(folder: Path) -> _Run:
    texts = {}
    for name in ("run.json", "train_config.yaml", "trainer_state.json"):
        if (folder / name).is_file():
            texts[name] = (folder / name).read_text(encoding="utf-8")
    try:
        facts = json.loads(texts["run.json"]) if "run.json" in texts else {}
        needed = ["run.json", "train_config.yaml", *([] if facts.get("head") else ["trainer_state.json"])]
        if absent := [name for name in needed if name not in texts]:
            raise FileNotFoundError(
                f"{folder}: no {absent[0]}; a summary is of a folder that `railsformer train` finished"
            )
        logs = json.loads(texts["trainer_state.json"])["log_history"] if "trainer_state.json" in texts else []
        yaml.safe_load(texts["train_config.yaml"])
        return _Run(folder, dict(facts), list(logs), texts["train_config.yaml"])
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{folder}: a file of the run is damaged ({' '.join(str(error).split())})") from error


def _headline(run: _Run) -> str:
    kept = run.kept
    if not kept:
        return "No evaluation on validation; the weights are those of the last step."
    figures = ", ".join(f"{word} {kept[key]:.3f}" for key, word in run.figures.items() if key in kept)
    if run.head:
        return (
            f"Kept: the head of regularisation {run.head['regularisation']:g}, on a frozen trunk. On validation: "
            f"{figures}.\nThe regularisation was chosen on validation, so these figures are a little too good; "
            "`railsformer evaluate` measures on test."
        )
    return (
        f"Kept: the weights of epoch {kept.get('epoch', 0):.4g} (step {kept.get('step')}). On validation: {figures}.\n"
        "The epoch was chosen on validation, so these figures are a little too good; `railsformer evaluate` measures "
        "on test."
    )


def _classes(run: _Run) -> str:
    """Of the kept weights; a class without a clip in validation has no figures."""
    kept, labels = run.kept, list(run.facts.get("labels") or [])
    if not any(f"f1/{label}" in kept for label in labels):
        return ""
    rows = [
        [_cell(label), *(_figure(kept.get(f"{kind}/{label}"), kind) for kind in _CLASS_FIGURES)] for label in labels
    ]
    return "## By class, on validation\n\n" + _table(["class", "precision", "recall", "F1", "support"], rows)


def _figure(value: float | None, kind: str) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if kind == "support" else f"{value:.3f}"


def _epochs(run: _Run) -> str:
    """Every evaluation; of a long run those at even distances, the last and the kept one."""
    logs = run.evaluations
    if not logs:
        return ""
    step = -(-len(logs) // _MAX_EPOCH_ROWS)
    kept = run.kept.get("step")
    shown = [
        log
        for place, log in enumerate(logs, start=1)
        if place % step == 0 or place == len(logs) or log.get("step") == kept
    ]
    words = run.figures
    keys = [key for key in words if any(f"eval_{key}" in log for log in logs)]
    rows = [
        [
            f"{log.get('epoch', 0):.4g}" + (" (kept)" if log.get("step") == kept else ""),
            str(log.get("step", "–")),
            *(f"{log[f'eval_{key}']:.3f}" if f"eval_{key}" in log else "–" for key in keys),
        ]
        for log in shown
    ]
    return "## Evaluations\n\n" + _table(["epoch", "step", *(_cell(words[key]) for key in keys)], rows)


def _heads(run: _Run) -> str:
    """What a head on cached embeddings reached at each regularisation that was tried."""
    tried = {float(strength): figure for strength, figure in (run.head.get("tried") or {}).items()}
    if not tried:
        return ""
    rows = [
        [f"{strength:g}" + (" (kept)" if strength == run.head["regularisation"] else ""), f"{figure:.3f}"]
        for strength, figure in sorted(tried.items())
    ]
    return "## Heads\n\nInverse strength of the penalty, and the figure on validation that chose:\n\n" + _table(
        ["regularisation", _cell(str(run.head.get("figure", "figure")))], rows
    )


def _cost(run: _Run) -> str:
    cost, pace = run.facts.get("cost") or {}, run.facts.get("pace") or {}
    rows = []
    if "seconds" in cost:
        part = ""
        if cost["first_step"] and cost["last_step"] > cost["first_step"]:
            part = f", of steps {cost['first_step'] + 1} to {cost['last_step']} after a resume"
        elif cost["first_step"]:
            part = f", after a resume at step {cost['last_step']}, the last"
        seconds = f"{cost['seconds']:,.0f}" if cost["seconds"] >= 10 else f"{cost['seconds']:.2g}"
        work = "with embedding and fitting" if run.head else "with evaluation and saving"
        rows.append(["time", f"{seconds} s {work}{part}"])
    if "clips_per_second" in pace:
        waited = f", {pace['data_wait_share']:.1%} of the time waiting for clips" if "data_wait_share" in pace else ""
        rows.append(["training", f"{pace['clips_per_second']:.3g} clips/s{waited}"])
    if "device" in cost:
        rows.append(["device", f"{_cell(str(cost['device']))}, {cost['processes']} process(es)"])
    if "peak_rss_bytes" in cost:
        rows.append(["peak memory", f"{cost['peak_rss_bytes'] / 2**30:.2f} GiB of the main process, loader apart"])
    if cost.get("peak_cuda_bytes") is not None:
        rows.append(["peak GPU memory", f"{cost['peak_cuda_bytes'] / 2**30:.2f} GiB of one GPU"])
    energy = cost.get("energy_joules") or {}
    told = ", ".join(f"{part.upper()} {joules / 3600:,.2f} Wh" for part, joules in energy.items())
    rows.append(["energy", f"{told} (whatever ran on them)" if told else "not measured"])
    return "## Cost\n\n" + _table(["", ""], rows)


def _data(run: _Run) -> str:
    facts = run.facts
    rows = [
        ["dataset", _cell(_name(facts.get("dataset", "unknown")))],
        ["fingerprint", f"`{facts.get('dataset_fingerprint') or 'none stated'}`"],
        ["split", _cell(str(facts.get("split_kind", "unknown")))],
        ["started from", _cell(_name(facts["base"]) if facts.get("base") else "random weights")],
    ]
    return "## Data\n\n" + _table(["", ""], rows)


def _lost(run: _Run) -> str:
    """Training clips that could not be read; nothing where the run did not count them."""
    lost = run.facts.get("lost_clips")
    if lost is None:
        return ""
    if not lost:
        return "## Lost clips\n\nNone: every training clip could be read."
    total = sum(int(one["count"]) for one in lost)
    told = f"{total} clips of {len(lost)} files could not be read; the run went on without them."
    return f"## Lost clips\n\n{told}\n\n{_lost_files(lost, 'clips')}"


def _lost_validation(run: _Run) -> str:
    """Validation videos that could not be read; nothing where all could."""
    lost = run.facts.get("lost_validation")
    if not lost:
        return ""
    told = (
        f"{len(lost)} videos of validation could not be read at least once. Figures are those of the others: an epoch "
        "from before a file broke was compared with a later one on other videos."
    )
    return f"## Lost validation videos\n\n{told}\n\n{_lost_files(lost, 'times')}"


def _lost_files(lost: Sequence[Mapping[str, Any]], counted: str) -> str:
    rows = [[_cell(_name(one["file"])), str(one["count"]), _cell(str(one["reason"]))] for one in lost[:_MAX_LOST]]
    more = f"\n\nand {len(lost) - _MAX_LOST} further files: run.json" if len(lost) > _MAX_LOST else ""
    return _table(["file", counted, "reason"], rows) + more


def _versions(run: _Run) -> str:
    versions = run.facts.get("versions") or {}
    return "## Versions\n\n" + ", ".join(f"{name} {number}" for name, number in versions.items()) if versions else ""


def _recipe(run: _Run) -> str:
    fence = "`" * 3
    while fence in run.recipe:
        fence += "`"
    return (
        f"## Recipe\n\nEverything that was set, as `--config` takes it:\n\n{fence}yaml\n{run.recipe.rstrip()}\n{fence}"
    )


def _name(value: Any) -> str:
    """A Hub id as it is, a path of this machine by its last part: the page may be shown elsewhere."""
    return Path(str(value)).name if Path(str(value)).is_absolute() else str(value)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    right = [all(cell[:1].isdigit() or cell == "–" for cell in column) for column in zip(*rows, strict=True)]
    lines = [heading, ["--:" if number else "---" for number in right], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that cannot end a cell or a line."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
