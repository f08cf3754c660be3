"""Phantoms: sites without patients."""
