"""Execution of prepared steps: CUDA graphs and torch.compile."""
