"""The memory planner: what it predicts from batches of one and two, what it recommends, and when it speaks."""

import pytest
import torch

from railsformer.cli import main
from railsformer.data.clips import load_video_dataset
from railsformer.training import plan as planner
from railsformer.training.arguments import parse_settings
from railsformer.training.plan import MemoryPlan, fit_step_cost, overflow_advice, plan_memory, warn_if_large
from railsformer.training.plan_step import count_macs, measure_steps
from railsformer.training.start import build_model, choose_trainable

MIB, GIB = 2**20, 2**30
# Wide enough that a clip counts beside the libraries, small enough for a test: 16 MiB a clip.
SMALL = ["--from_scratch", "--hidden_size", "96", "--num_hidden_layers", "4", "--num_attention_heads", "2"]
SMALL += ["--intermediate_size", "384", "--patch_size", "8", "--image_size", "64", "--num_frames", "8"]
SMALL += ["--use_cpu", "true", "--num_threads", "1"]
FLAGS = {"plain": {"activation_checkpointing": False}, "checkpointing": {"activation_checkpointing": True}}


@pytest.fixture
def settings(yard_dataset, tmp_path):
    def parsed(*flags):
        base = ["--dataset", str(yard_dataset), "--output_dir", str(tmp_path / "run")]
        return parse_settings([*SMALL, *base, *flags])

    return parsed


def _answer(size, *, fixed, per_clip, seconds=1.0, device="cuda:0"):
    peak = fixed + per_clip * size
    return {
        "peak_bytes": peak, "accumulating_peak_bytes": peak + 10, "pass_seconds": 0.5 + seconds * size,
        "optimizer_seconds": 0.25, "device": device,
    }  # fmt: skip


def _plan(*, free, batch_size=8, passes=1, mode="plain", modes=("plain", "checkpointing")):
    per_clip = {"plain": (100, 1.0), "checkpointing": (20, 1.4)}
    costs = {
        name: fit_step_cost(
            {size: _answer(size, fixed=200, per_clip=per_clip[name][0], seconds=per_clip[name][1]) for size in (1, 2)}
        )
        for name in modes
    }
    return MemoryPlan(
        device="cuda:0", free_bytes=free, parameters=7, trained_parameters=7, macs=None, batch_size=batch_size,
        passes=passes, mode=mode, costs=costs, flags=FLAGS,
    )  # fmt: skip


def test_a_line_goes_through_both_measurements():
    cost = fit_step_cost({1: _answer(1, fixed=200, per_clip=100), 2: _answer(2, fixed=200, per_clip=100)})
    assert cost.peak_bytes(8) == 1000
    assert cost.peak_bytes(8, passes=2) == 1010
    assert cost.step_seconds(4, passes=2) == pytest.approx(2 * 4.5 + 0.25)


def test_where_two_clips_overflow_one_predicts_too_much_rather_than_too_little():
    cost = fit_step_cost({1: _answer(1, fixed=200, per_clip=100)})
    assert cost.peak_bytes(1) == 300
    assert cost.peak_bytes(2) >= 400


def test_gradients_of_several_processes_are_held_twice():
    answers = {size: _answer(size, fixed=200, per_clip=100) for size in (1, 2)}
    assert fit_step_cost(answers, copies_bytes=50).peak_bytes(2) == fit_step_cost(answers).peak_bytes(2) + 50


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (2000, ("plain", 8, 1)),  # the recipe's own fits
        (900, ("plain", 4, 2)),  # 610 of 810: smaller batches cost less time than checkpointing
        (500, ("plain", 2, 4)),
        (300, ("checkpointing", 2, 4)),  # 250 of 270
        (100, None),
    ],
)
def test_the_fastest_setting_that_fits_takes_the_recipes_step(free, expected):
    found = _plan(free=free).recommended
    assert (found and (found.mode, found.batch_size, found.passes)) == expected


def test_a_step_that_is_already_accumulated_stays_as_long():
    found = _plan(free=500, batch_size=6, passes=2).recommended
    assert (found.batch_size * found.passes, found.batch_size) == (12, 2)


def test_the_sentence_names_flags_that_train_knows(settings):
    sentence = _plan(free=300).sentence()
    assert "\n" not in sentence
    flags = sentence.partition("fits with ")[2].partition(" (")[0].split()
    run = settings(*flags).run
    assert (run.per_device_train_batch_size, run.gradient_accumulation_steps) == (2, 4)
    assert run.activation_checkpointing is True


def test_where_nothing_fits_the_plan_says_so():
    assert "nothing fits" in _plan(free=100).sentence()
    assert "none" in _plan(free=100).table()


def test_multiply_accumulates_are_those_of_the_layers(settings, yard_dataset):
    chosen = settings("--attention_type", "space_only")
    model = build_model(chosen.model, load_video_dataset(yard_dataset))
    width, patches, frames = 96, 64, 8
    dense = 4 * (3 * width**2 + width**2 + 2 * width * 384) * (patches + 1) * frames
    attention = 4 * 2 * (patches + 1) ** 2 * width * frames
    embedding = 3 * 8 * 8 * width * patches * frames
    assert count_macs(model) == dense + attention + embedding + width * 4


def test_a_frozen_trunk_trains_the_head_alone(settings):
    flags = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    answer = measure_steps(settings("--trainable", "head", *flags), batch_size=1, count=False)
    assert answer["trained_parameters"] == 96 * 4 + 4
    assert answer["macs"] is None


@pytest.mark.slow
def test_the_prediction_holds_on_this_device(settings):
    chosen = settings("--per_device_train_batch_size", "8")
    plan = plan_memory(chosen, modes=("plain",), confirm=True)
    assert plan.chosen.fits
    assert plan.recommended == plan.chosen
    assert plan.chosen.peak_bytes == pytest.approx(plan.confirmed.peak_bytes, rel=0.1)
    assert plan.costs["plain"].peak.per_clip > 5 * MIB
    table = plan.table()
    assert f"{plan.parameters:,} parameters" in table
    assert "GMACs a clip" in table
    assert "run to make sure" in table


def test_an_overflow_of_the_measuring_process_costs_nothing(settings):
    flags = ["--image_size", "512", "--num_frames", "32"]  # 131,072 patches: some 20 GiB
    plan = plan_memory(settings(*flags), modes=("plain",), free=GIB)
    assert plan.costs == {"plain": None}
    assert plan.chosen is None
    assert "overflows with one clip" in plan.sentence()


def test_settings_that_do_not_fit_are_refused_in_the_words_of_the_run(settings):
    with pytest.raises(ValueError, match="negative_labels"):
        plan_memory(settings("--negative_labels", "Nobody"), modes=("plain",))


def test_a_small_model_is_not_measured_before_its_first_step(settings, yard_dataset):
    chosen = settings()
    model = build_model(chosen.model, load_video_dataset(yard_dataset))
    choose_trainable(model, chosen.run)
    assert warn_if_large(chosen, model) is None


@pytest.mark.slow
def test_a_model_that_will_overflow_is_told_before_its_first_step(settings, yard_dataset, monkeypatch, caplog):
    monkeypatch.setattr(planner, "free_bytes", lambda device: GIB // 8)
    monkeypatch.setattr(planner, "_own_rss_bytes", lambda: 0)
    chosen = settings("--per_device_train_batch_size", "64")
    model = build_model(chosen.model, load_video_dataset(yard_dataset))
    plan = warn_if_large(chosen, model)
    assert plan is not None
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert caplog.records[-1].getMessage().startswith("batches of 64 (plain)")


def test_the_advice_after_an_overflow_is_one_line_even_where_nothing_can_be_measured(settings, monkeypatch):
    monkeypatch.setattr(planner.sys, "executable", "/bin/false")
    advice = overflow_advice(
        settings("--per_device_train_batch_size", "6"), torch.OutOfMemoryError("CUDA out of memory")
    )
    assert "--per_device_train_batch_size 1 --gradient_accumulation_steps 6" in advice


def test_a_failure_that_is_not_memory_is_told(settings, monkeypatch):
    monkeypatch.setattr(planner.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="exit status 1"):
        plan_memory(settings(), modes=("plain",))


@pytest.mark.slow
def test_train_with_plan_prints_and_leaves_nothing(yard_dataset, tmp_path, capsys):
    flags = ["--dataset", str(yard_dataset), "--output_dir", str(tmp_path / "run"), "--plan"]
    flags += ["--per_device_train_batch_size", "2"]
    assert main(["train", *SMALL, *flags]) == 0
    assert "the recipe fits" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
