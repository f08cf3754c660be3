"""Bytes between processes of one machine, and what runs in FLARE's job processes (`flare.py`).

Imports neither torch nor anything else of weight: FLARE starts such a process for every site.
"""
