"""Building ONNX graphs: nodes, functions, weights, and the files that they become."""
