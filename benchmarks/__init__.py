"""Where threads contend, and what flowctl costs beside what a user would have used instead: ``make bench``."""
