"""Which connections are captured: rules as values, and what has to change to get there. Pure."""
