"""Carries bytes between processes of one machine; `flare.py` runs in FLARE's job processes.

Imports neither torch nor other heavy packages, since FLARE starts such a process for every site.
"""
