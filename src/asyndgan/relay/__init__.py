"""Carries bytes between processes of one machine; `flare.py` and `client.py` run in FLARE's own.

Imports neither torch nor other heavy packages, since FLARE starts such a process for every site.
"""
