"""Models of tensors: which file a name means, numbers and pictures in, numbers and labels out. Runs none itself."""
