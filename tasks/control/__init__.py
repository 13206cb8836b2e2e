"""Control tasks whose physics changes: schedules and environments."""
