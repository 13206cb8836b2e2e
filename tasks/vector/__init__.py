"""Vector environments: many environments stepped in this process and in worker processes."""
