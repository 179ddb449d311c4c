"""Synthetic anomalies. Every function takes its random generator; nothing else is random."""
