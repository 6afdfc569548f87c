"""The life of a host in the mesh: what happens when, as values and functions of values.

Pure: no clock, no file, no process. Time is an argument, and every deadline is a field.
"""
