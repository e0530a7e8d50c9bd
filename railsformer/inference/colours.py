"""One colour a label, the same in every picture, page and video of a timeline."""

from collections.abc import Sequence

__all__ = ["NEGATIVE_COLOUR", "label_colours"]

# After Okabe and Ito, the pale ones darkened until white letters can be read on them (contrast 4.5 or more).
_HAZARD_COLOURS = ("#0069a3", "#b84f00", "#007a59", "#a8457f", "#8f6400", "#3f6f91", "#6a51a3", "#7a5c4a")
NEGATIVE_COLOUR = "#5f6b75"


def label_colours(labels: Sequence[str], negative_labels: Sequence[str] = ()) -> dict[str, str]:
    """Give each label a colour; what means 'nothing' is grey, and with many hazards colours come again.

    Args:
        labels: In the model's order.
        negative_labels: Those that mean 'nothing'.

    Returns:
        Label to `#rrggbb`.
    """
    hazards = [label for label in labels if label not in negative_labels]
    colours = {label: _HAZARD_COLOURS[index % len(_HAZARD_COLOURS)] for index, label in enumerate(hazards)}
    return {label: colours.get(label, NEGATIVE_COLOUR) for label in labels}
