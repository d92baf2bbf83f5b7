"""molino: an experiment harness for small language models on PyTorch Lightning and Hydra."""
