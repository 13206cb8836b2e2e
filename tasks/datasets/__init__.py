"""Datasets of labelled images: found, downloaded, checked and read."""
