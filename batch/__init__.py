"""Many questions: a run, its settings, its files, every question in one place. It starts at `run.generate`."""
