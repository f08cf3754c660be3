"""Suites: many runs and their comparison, as one table."""
