"""The flights of 2013 as dicts: one process pushes them, four group them by carrier, and a fifth adds up what those found.

The whole table is not in the repository; the bundled records, over and over, are as many. `BUSWAY_FLIGHTS=flights.csv` names the file itself.
"""

import collections
import json
import os
import pathlib

import busway
from stage import Child, Claims

#: The records of the year; with the line of names the file has 336 777.
RECORDS = 336_776
PULLERS = 4
#: They are equal in this: of so many rounds each has done as many records as this before one begins the next.
ROUNDS, ROUND = 5, 10_200
#: Of each puller's part, of which an equal one is 0.25.
SHARE_MIN = 0.15
#: Longer than the whole table takes on a machine that does ten other things.
LONG = 80.0

#: Where the table comes from. A value that is missing is `NA`.
TABLE = f"""
import csv, gzip, itertools, os, pathlib

def table():
    named = os.environ.get("BUSWAY_FLIGHTS")
    bundled = pathlib.Path(os.environ["BUSWAY_SOURCES"]).parent / "cli/data/flights-20000.csv.gz"
    with open(named, newline="") if named else gzip.open(bundled, "rt", newline="") as lines:
        names, *records = csv.reader(lines)
    for record in itertools.islice(itertools.cycle(records), {RECORDS}):
        yield dict(zip(names, record))
"""
PUSHES = f"""{TABLE}
sys.stdin.readline()
with busway.Bus("flights") as bus, bus.pusher("flights", max_wait={LONG}) as pusher:
    pusher.wait_for_pullers({PULLERS}, PATIENCE)
    for record in table():
        pusher.send_json(record)
    for _ in range({PULLERS}):
        pusher.send_json(None)
    pusher.flush({LONG})
    account = pusher.account()
    print(account["sent"], sum(account["dropped"].values()), flush=True)
"""
PULLS = f"""
import collections
rounds = {ROUNDS}
with busway.Bus("flights") as bus, bus.puller("flights", group="carriers") as puller, bus.pusher("totals") as totals:
    print("ready", flush=True)
    flights, miles = collections.Counter(), collections.Counter()
    for task in puller:
        record = task.json()
        if record is None:
            break
        flights[record["carrier"]] += 1
        miles[record["carrier"]] += int(record["distance"])
        if rounds > 0 and flights.total() % {ROUND} == 0:
            rounds -= 1
            # Who holds one keeps its place in the ring, and the others from what is behind it.
            del task
            print("done", flush=True)
            sys.stdin.readline()
    totals.send_json(dict(flights=flights, miles=miles))
    totals.flush(PATIENCE)
"""
COLLECTS = f"""
import collections, json
with busway.Bus("flights") as bus, bus.puller("totals") as puller:
    print("ready", flush=True)
    flights, miles, shares = collections.Counter(), collections.Counter(), []
    for _ in range({PULLERS}):
        with puller.recv({LONG}) as task:
            part = task.json()
        flights.update(part["flights"])
        miles.update(part["miles"])
        shares.append(sum(part["flights"].values()))
    print(json.dumps([flights, miles, shares]), flush=True)
"""


class Flights(Claims):
    def directly(self):
        """The same totals, computed here."""
        names = {}
        exec(TABLE, names)
        flights, miles = collections.Counter(), collections.Counter()
        for record in names["table"]():
            flights[record["carrier"]] += 1
            miles[record["carrier"]] += int(record["distance"])
        return dict(flights), dict(miles)

    def test_four_programs_group_the_flights_of_a_year_and_a_fifth_adds_them_up(self):
        self.assertTrue(pathlib.Path(os.environ["BUSWAY_SOURCES"]).is_dir())
        with busway.Bus("flights"), Child(PUSHES) as pusher, Child(COLLECTS) as collector:
            pullers = [Child(PULLS) for _ in range(PULLERS)]
            try:
                for child in (collector, *pullers):
                    self.assertEqual(child.hear(), "ready")
                pusher.say("go")
                for _ in range(ROUNDS):
                    for puller in pullers:
                        self.assertEqual(puller.hear(LONG), "done", "the others' parts are theirs")
                    for puller in pullers:
                        puller.say("go")
                flights, miles = self.directly()
                found, far, shares = json.loads(collector.hear(LONG))
                self.assertEqual((found, far), (flights, miles))
                self.assertEqual(sum(shares), RECORDS)
                parts = [share / RECORDS for share in shares]
                self.assertGreaterEqual(min(parts), SHARE_MIN, shares)
                self.assertEqual(pusher.hear(), f"{RECORDS + PULLERS} 0")
                self.assertEqual([puller.process.wait(LONG) for puller in pullers], [0] * PULLERS)
            finally:
                for puller in pullers:
                    puller.__exit__()
        told = ",".join(f"{part:.3f}" for part in parts)
        self.evidence(records=RECORDS, carriers=len(flights), shares=told)
