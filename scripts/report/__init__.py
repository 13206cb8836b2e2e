"""`plasticity report`: finished and unfinished runs as tables, figures and one page."""
