"""The pure core: numpy and OpenCV image functions only; no clock, thread, file or random source."""
