"""Commands on folders of runs."""
