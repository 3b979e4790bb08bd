"""How ONNX graphs are built, whatever they compute."""
