"""What the rules capture, seen with real packets: a table of configurations and packets."""
