"""Thresholds from good parts only: order statistics, numbered records, rollback."""
