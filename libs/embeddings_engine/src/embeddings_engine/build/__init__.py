"""From a checkpoint to a file that a runtime can execute: numpy in, TFLite or ONNX out. No torch, no TensorFlow."""
