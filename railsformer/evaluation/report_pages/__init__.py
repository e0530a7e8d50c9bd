"""The report of one evaluation, from its figures: pages, pictures and tables. The model is not asked again."""

from railsformer.evaluation.report_pages.contact_sheet import Frames
from railsformer.evaluation.report_pages.predictions import Predictions, read_predictions, write_predictions
from railsformer.evaluation.report_pages.schema import load_schema
from railsformer.evaluation.report_pages.writer import write_report

__all__ = ["Frames", "Predictions", "load_schema", "read_predictions", "write_predictions", "write_report"]
