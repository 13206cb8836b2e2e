"""Trackers: services that get a copy of every row, so that many runs can be watched from elsewhere."""
