"""Tests against other people's programs, each named by environment variables."""
