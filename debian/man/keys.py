"""Write the key list of istio-hostagent.env(5) to standard output, from the tables of the program.

Run from the top of the source by debian/rules; a key is in the manual page because it is in a
table, and in no other way.
"""

import sys

from istio_hostagent.config import manual

if __name__ == "__main__":
    sys.stdout.write(manual.render_keys_rst())
