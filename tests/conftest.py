"""Shared fixtures."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import random
import signal

import numpy as np
import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_works():
    """A background job ignores SIGINT, and so would the processes that the tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny models on two threads of a busy machine crawl."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _restore_random_state():
    """Leave every global generator as it was, so that no test depends on another."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture(scope="session")
def tankyard() -> Path:
    """The real railway CCTV beside the repository; tests that use it skip where it is absent."""
    folder = SHARED / "data" / "tankyard"
    if not folder.is_dir():
        pytest.skip("no tankyard data beside the repository")
    return folder


@pytest.fixture(scope="session")
def dinov2_small() -> Path:
    """The real pretrained image transformer beside the repository."""
    folder = SHARED / "models" / "dinov2-small"
    if not folder.is_dir():
        pytest.skip("no dinov2-small beside the repository")
    return folder


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory):
    """A Hub on the loopback for the real client, which runs in its own processes: `hub.run(code)`, `env=hub.env`."""
    from hub_server import Hub

    server = Hub(tmp_path_factory.mktemp("hf_home"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def yard_dataset(tmp_path_factory) -> Path:
    """A dataset of six rendered recordings, 42 clips, split by recording."""
    from railsformer.data.builder import build_dataset
    from railsformer.data.toy_yard import render_toy_yard

    folder = tmp_path_factory.mktemp("yard")
    table = render_toy_yard(
        folder / "source", num_recordings=6, seed=3, idle_per_recording=1, num_workers=1, progress=False
    )
    build_dataset(
        folder / "source",
        output_dir=folder / "dataset",
        annotations=table,
        group_by="recording",
        splits=(0.5, 0.17, 0.33),
        progress=False,
    )
    return folder / "dataset"
