"""Why a trajectory is accepted or rejected."""
