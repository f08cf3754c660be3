"""Experiments, each a script: `python -m lab.experiments.NAME --help`."""
