"""Triton kernels of a regularized optimizer's step."""
