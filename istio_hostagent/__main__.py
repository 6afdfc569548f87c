"""`python3 -m istio_hostagent VERB` equals the installed `istio-hostagent VERB`."""

from .cli import program

if __name__ == "__main__":
    program.execute()
