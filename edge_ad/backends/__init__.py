"""Inference engines behind one Protocol (base.py)."""
