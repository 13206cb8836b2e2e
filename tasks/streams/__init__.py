"""Streams of supervised tasks."""
