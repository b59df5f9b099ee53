"""A worker process that counts as it is told on standard input, and answers each line on standard output."""

import sys
from pathlib import Path

from gateway.observe.metrics import Metrics

metrics = Metrics(Path(sys.argv[1]))
metrics.collect_gauges(lambda: [("holds_open", (), 3), ("ready", (), int(sys.argv[2]))])
route = metrics.route("/v1/personas")
for line in sys.stdin:
    command, _, number = line.strip().partition(" ")
    if command == "count":
        for _ in range(int(number)):
            route.observe("POST", 200, 0.02, 0.01, 0.001, 5)
    elif command == "flush":
        metrics.flush()
    elif command == "race":  # count and be scraped until killed
        while True:
            route.observe("POST", 200, 0.02, 0.01, 0.001, 5)
            metrics.flush()
    print("done" if command != "scrape" else metrics.exposition().render()[1].decode().count("\n"), flush=True)
metrics.close()
