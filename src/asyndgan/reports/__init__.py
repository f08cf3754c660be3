"""Pages that people look at: one file each, that loads nothing from anywhere."""

from asyndgan.reports.report import write_report

__all__ = ["write_report"]
