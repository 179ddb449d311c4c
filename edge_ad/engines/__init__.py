"""TensorRT engines: built on the device from a bundle, proved, kept in the state directory (docs/jetson.md)."""
