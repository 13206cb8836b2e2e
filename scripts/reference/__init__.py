"""Reference pages of the documentation site, made from the parsers, the dataclasses and the docstrings."""
