"""The report of a comparison, from its figures: page, text and pictures. Nothing is measured again."""

from railsformer.compare.report_pages.page import draw_comparison, page_content

__all__ = ["draw_comparison", "page_content"]
