"""Command `plasticity video`: episodes of a trained agent as a GIF, a video or a filmstrip."""
