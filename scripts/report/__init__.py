"""Command `plasticity report`: tables, figures and one page on finished and unfinished runs."""
