"""From a run to a training set: audit, export, and pages to look at."""
