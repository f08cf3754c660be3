"""Connects hospitals over NVIDIA FLARE, which provides identities, mutual TLS and messages.

FLARE's processes only carry sealed requests and answers (`app.py`, `sealing.py`). The coordinator
(`transport.py`) and each site's data process (`service.py`) run beside them.
"""
