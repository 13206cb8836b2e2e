"""Command `plasticity video`: episodes of a trained ant as a GIF, a video or a filmstrip."""
