"""The GPU beside torch: facts, memory and streams by pycuda, in the primary context that torch and TensorRT use."""
