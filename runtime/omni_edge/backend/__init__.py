"""Everything that depends on onnxruntime, a C compiler or this machine."""
