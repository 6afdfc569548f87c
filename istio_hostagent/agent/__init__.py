"""The resident loop: joins pure decisions to ports."""
