"""Painting: what comes out of a finished run's generator (sets, augmented and completed sites)."""
