"""A codec for the part of nf_tables that the agent uses: values in, bytes out, and back."""
