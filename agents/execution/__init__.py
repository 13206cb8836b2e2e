"""How prepared steps are executed: CUDA graphs and torch.compile."""
