"""From the text of the environment files to one frozen, complete `Config`.

Pure: no file is opened here.
"""
