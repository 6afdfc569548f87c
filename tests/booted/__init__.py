"""Tests of the installed package on booted Debian machines."""
