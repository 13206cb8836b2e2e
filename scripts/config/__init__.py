"""Configuration of a run, and the options that it is made from."""
