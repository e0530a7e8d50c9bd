"""Maps of a model that learnt to see a square move: do they lie on the square, and peak when it moves?

Plain rollout does, for every scheme; but it knows no class, and in a model that has learnt nothing it lies on what is
bright too, so this alone is no proof that a map explains a prediction. Occlusion, which owes nothing to attention,
does for all but one. gradient_rollout does not for most schemes, and nothing here says that it does.
"""

import pytest
import torch
from moving_square import Clips, draw_clips, figures, trained_model

from railsformer.explain import attribute
from railsformer.model.configuration_railsformer import ATTENTION_TYPES
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

STEPS = {"sparse_local_global": 1000, "axial": 500}  # the others learn it in 300
OCCLUSION_MISSES_IT = ("sparse_local_global",)


@pytest.fixture(scope="module", params=ATTENTION_TYPES)
def learnt(request) -> tuple[RailsformerForVideoClassification, Clips]:
    attention_type = request.param
    model = trained_model(attention_type, STEPS.get(attention_type, 300))
    unseen = draw_clips(200, attention_type, torch.Generator().manual_seed(5))
    with torch.no_grad():
        right = model(unseen.pixel_values).logits.argmax(dim=1) == unseen.labels
    assert right.float().mean() >= 0.95
    return model, draw_clips(12, attention_type, torch.Generator().manual_seed(7), hazards_only=True)


@pytest.mark.long
def test_occlusion_lies_on_the_path_and_is_stronger_when_the_square_moves(learnt):
    model, clips = learnt
    if model.config.attention_type in OCCLUSION_MISSES_IT:
        pytest.skip("half of the relevance lies elsewhere")
    relevance = attribute(model, clips.pixel_values, "occlusion", clips.labels, cube=(1, 1, 1), batch_size=64)
    found = figures(relevance, clips)
    assert found.on_path >= 0.7, found
    assert found.moving > found.standing, found


@pytest.mark.long
def test_rollout_lies_on_the_path_and_peaks_when_the_square_moves(learnt):
    model, clips = learnt
    found = figures(attribute(model, clips.pixel_values, "rollout"), clips)
    assert found.on_path >= 0.7, found
    assert found.moving > found.standing, found
    assert found.peaks_moving >= 0.9, found
