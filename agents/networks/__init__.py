"""Networks that the learners train."""
