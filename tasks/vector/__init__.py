"""Vector environments: many environments on the cores, or on a device."""
