"""Networks trained by the learners."""
