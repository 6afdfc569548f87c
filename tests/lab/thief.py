"""A program of an ordinary user who wants ports, in a loop that never rests.

Its arguments are ports and addresses, each divided by commas. It says what it has and what it got.
"""

SCRIPT = """
import itertools, socket, sys
ports = [int(word) for word in sys.argv[1].split(",")]
places = [(p, a) for p in ports for a in sys.argv[2].split(",")]
ways = list(itertools.product((0, 1), (0, 1), (0, 1)))
won = []
print("ready", flush=True)
for number in itertools.count():
    port, address = places[number % len(places)]
    reuses, shares, is_alone = ways[number // len(places) % len(ways)]
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuses)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
    if ":" in address:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, is_alone)
    try:
        made.bind((address, port))
        made.listen()
        made.setblocking(False)
        won.append(made)
        print("has", address, port, flush=True)
    except OSError:
        made.close()
    for each in won:
        try:
            client, peer = each.accept()
        except BlockingIOError:
            continue
        client.settimeout(0.2)
        try:
            data = client.recv(1000)
        except OSError as error:
            data = str(error)
        print("got", peer, data, flush=True)
"""
