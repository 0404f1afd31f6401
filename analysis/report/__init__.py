"""The report of a study: one HTML file that needs no network, and the front as files beside it."""

from analysis.report.comparison import write_comparison
from analysis.report.document import Report, write

__all__ = ["Report", "write", "write_comparison"]
