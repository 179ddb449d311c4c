"""The device side of edge-ad: frames in, verdicts and alarms out."""

__version__ = "0.1.0"
