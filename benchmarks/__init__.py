"""What things cost, measured as a user would run them; nothing here is asserted."""
