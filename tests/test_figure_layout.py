"""What is drawn is the same whatever the last bits of a layout are."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from railsformer.data.analysis.figures import png_bytes, settle_layout


class _LastBitsDiffer(ConstrainedLayoutEngine):
    """As the solver does from call to call, since it sorts by memory address."""

    def __init__(self, shift: float):
        super().__init__()
        self.shift = shift

    def execute(self, fig):
        super().execute(fig)
        for axes in fig.axes:
            axes.set_position(axes.get_position().translated(self.shift, self.shift))


def test_the_last_bits_of_a_layout_do_not_matter():
    def drawn(shift):
        figure = Figure(figsize=(4, 3), layout=_LastBitsDiffer(shift))
        FigureCanvasAgg(figure)
        figure.subplots(1, 2)[0].plot([0, 1], [1, 3])
        settle_layout(figure)
        png_bytes(figure)
        return [axes.get_position().bounds for axes in figure.axes]

    assert drawn(0.0) == drawn(1e-13)
    assert drawn(0.0) != drawn(1e-3)
