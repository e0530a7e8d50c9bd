"""Maps of a model that learnt to see a square move: do they lie on the square, and peak when it moves?

Occlusion does, for every scheme. The rollouts do not for every scheme, and nothing here says that they do: they follow
attention, and a tiny model may read a token without attending to it more than to others (docs/explaining.md).
"""

import pytest
import torch

from railsformer.explain import attribute
from railsformer.model.configuration_railsformer import ATTENTION_TYPES
from tests.moving_square import draw_clips, figures, trained_model

STEPS = {"joint_space_time": 500, "sparse_local_global": 500}  # others learn it in fewer


@pytest.mark.long
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_occlusion_lies_on_the_path_and_peaks_when_the_square_moves(attention_type):
    model = trained_model(attention_type, STEPS.get(attention_type, 300))
    unseen = draw_clips(120, attention_type, torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert (model(unseen.pixel_values).logits.argmax(dim=1) == unseen.labels).float().mean() >= 0.95
    clips = draw_clips(12, attention_type, torch.Generator().manual_seed(7), hazards_only=True)
    relevance = attribute(model, clips.pixel_values, "occlusion", clips.labels, cube=(1, 1, 1), batch_size=64)
    found = figures(relevance, clips)
    assert found.on_path >= 0.7
    assert found.on_square > found.square_chance
    assert found.moving > found.standing
    assert found.peaks_moving >= 0.9
