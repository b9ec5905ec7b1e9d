"""Many questions: a run, its files, its settings, and every question in exactly one place."""
