"""Tests against other people's programs, built by `make peers` or named by the environment."""
