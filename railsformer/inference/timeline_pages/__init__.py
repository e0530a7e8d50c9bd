"""A timeline for people: a picture, and a page on which its events are reviewed beside the video."""

from railsformer.inference.timeline_pages.page_data import REVIEW_COLUMNS, TRUTH_COLUMNS
from railsformer.inference.timeline_pages.writer import write_timeline_pages

__all__ = ["REVIEW_COLUMNS", "TRUTH_COLUMNS", "write_timeline_pages"]
