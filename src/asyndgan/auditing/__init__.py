"""Auditing: what an attacker learns from a run, its images and its answers."""
