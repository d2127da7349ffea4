"""Prices are published, and read where their publisher wrote them.

One program does both here; two do it with the same lines, whichever starts first. Run it with `python pubsub.py`.
"""

from __future__ import annotations

import busway


def main() -> None:
    with busway.Bus("example-pubsub") as bus:
        # What is sent before anybody subscribes waits for the first who does.
        with bus.publisher("price.tick", late_join=10.0) as ticks:
            for price in (101.5, 101.6, 101.7):
                ticks.send_json({"symbol": "BTC", "price": price})
            with bus.subscriber("price.*", policy="block") as prices:
                for _ in range(3):
                    with prices.recv(timeout=5) as sample:
                        print(sample.topic, sample.sequence, sample.json()["price"])
            print("dropped", ticks.account()["dropped"])


if __name__ == "__main__":
    main()
