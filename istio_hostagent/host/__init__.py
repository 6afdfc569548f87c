"""The only package that touches the machine: kernel, files, processes, sockets, clocks."""
