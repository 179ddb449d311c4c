"""Every error a user can meet, in one tree.

    EdgeAdError
    +-- UsageError         what the user gave cannot be used        exit code 2
    |   +-- ConfigError        a configuration file
    |   +-- DataError          an image or a folder of images
    |   +-- BundleError        a bundle: truncated, altered, of an unknown schema
    |   +-- CalibrationError   a wish or a record that cannot be applied
    +-- CameraError        the camera did not open, or did not deliver in time
    +-- TriggerError       the sensor that announces parts cannot be read any more
    +-- BackendError       the engine refused the graph, the input or the device
    +-- StoppedError       told to stop before there was anything to stop
    +-- PublishError       the broker refused us or cannot be reached
    +-- PeerError          another process of a training has gone
    +-- OutboxError        the outbox cannot store or read a row

A message is one line: what is wrong, where, and what to do. Camera and publish errors are states of
the daemon; every other error ends the process (docs/decisions/0001-crash-do-not-limp.md).
"""


class EdgeAdError(Exception):
    """Base of the tree; `exit_code` is what a console script returns for it."""

    exit_code = 1


class UsageError(EdgeAdError):
    """What the user gave cannot be used. systemd does not restart on its exit code."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file is missing, malformed, or holds an unknown key or a value out of range."""


class DataError(UsageError):
    """An image or a folder of images cannot be used."""


class BundleError(UsageError):
    """A bundle is missing a file, truncated, altered, of an unknown schema, or fails its golden test."""


class CalibrationError(UsageError):
    """A calibration wish that the images cannot support, or a record that cannot be applied."""


class CameraError(EdgeAdError):
    """The camera did not open, or did not deliver a frame within its limit."""


class BusyError(EdgeAdError):
    """Another process holds what this one needs; it may end by itself, so systemd tries again."""


class TriggerError(EdgeAdError):
    """The sensor that announces parts cannot be read any more."""


class BackendError(EdgeAdError):
    """The inference engine refused the graph, the input or the device."""


class StoppedError(EdgeAdError):
    """Told to stop while what is needed to start was still being made: no failure of a daemon."""


class PublishError(EdgeAdError):
    """The broker refused the connection or cannot be reached."""


class PeerError(EdgeAdError):
    """Another process of a training that several share has gone."""


class OutboxError(EdgeAdError):
    """The outbox cannot store or read a row."""


def first_line(error: Exception) -> str:
    """What to quote of a vendor's error: its first line, or its type where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
