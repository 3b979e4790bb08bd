"""The only room that knows onnxruntime, a C compiler and this machine."""
