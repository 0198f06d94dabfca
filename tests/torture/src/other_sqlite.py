"""Writes to a database with the SQLite that Python has, until standard input ends.

Arguments: database, seed. Prints the version of SQLite, and how many transactions it committed so far after each of
them, so that one that is killed is counted, too.
"""

import random
import sqlite3
import sys
import threading

MODES = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"]


def connect(path, rng):
    connection = sqlite3.connect(path, timeout=rng.uniform(0.02, 2), isolation_level=None)
    connection.execute(f"PRAGMA wal_autocheckpoint = {rng.choice([0, 10, 1000])}")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def transaction(connection, rng):
    """Returns whether something was committed."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE IF NOT EXISTS other_sqlite (id INTEGER PRIMARY KEY, body BLOB)")
    for _ in range(rng.choice([1, 1, 5, 200])):
        body = rng.randbytes(rng.choice([10, 100, 5_000, 60_000]))
        connection.execute("INSERT INTO other_sqlite (body) VALUES (?)", (body,))
    connection.execute("UPDATE other_sqlite SET body = zeroblob(50) WHERE id % 7 = ?", (rng.randrange(7),))
    connection.execute("DELETE FROM other_sqlite WHERE id < (SELECT max(id) FROM other_sqlite) - 300")
    end = rng.choice(["COMMIT", "COMMIT", "COMMIT", "ROLLBACK"])
    connection.execute(end)
    return end == "COMMIT"


def main(path, seed):
    rng = random.Random(seed)
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    print(sqlite3.sqlite_version, flush=True)
    connection, committed = connect(path, rng), 0
    while not stop.wait(rng.uniform(0, 0.02)):
        try:
            action = rng.randrange(20)
            if action == 0:
                connection.close()
                connection = connect(path, rng)
            elif action < 4:
                connection.execute(f"PRAGMA wal_checkpoint({rng.choice(MODES)})").fetchall()
            else:
                committed += transaction(connection, rng)
                print(committed, flush=True)
        except sqlite3.OperationalError as error:
            # Others hold the lock, or changed the schema meanwhile.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if not any(word in str(error) for word in ("locked", "busy", "schema")):
                raise
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
