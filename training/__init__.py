"""From a run to a training set."""
