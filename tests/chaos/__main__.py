"""Load, faults, verdict: see tests/chaos/__init__.py. Exit code 0 when nothing was wrong."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import redis
from psycopg import sql

import settings
from models.kinds import KINDS, METER, VEHICLE, Kind
from stack.home import ROOT
from stack.launcher import Stack, running
from tests.chaos import faults, ledger, oracle, verdict
from tests.chaos.client import Figures
from tests.chaos.faults import Fault, Scene
from tests.chaos.ledger import Ledger
from tests.chaos.probe import NotRecovered, Probe
from tests.chaos.traffic import SPACING_US
from tests.chaos.verdict import Run
from workers import stream

SENDERS = 4
FLEETS = ("demo", "chaos")
#: Readings a second and sender: more than enough to have something in every process's hands.
RATE = 600.0
#: The first readings are so old: history of most of the summary's day.
BEGIN_HOURS = 20
#: Between the end of a fault's effect and the next fault, seconds (at most).
BREATH_SECONDS = 1.0
#: Before the first fault, so that there is something to lose.
WARM_SECONDS = 3.0
DRAIN_SECONDS = 150.0
#: A freeze longer than 30 s makes others adopt; only long runs have the time for it.
LONG_RUN_SECONDS, LONG_FREEZE, SHORT_FREEZE = 300.0, 40.0, 4.0


class Senders:
    """The client processes."""

    def __init__(self, stack: Stack, folder: Path, seed: int, begin_us: int) -> None:
        keys = [stack.api_key, _second_key(stack)]
        self.figures: list[dict[str, Any]] = [{} for _ in range(SENDERS)]
        self.ledgers = [folder / f"sender-{number}.ledger" for number in range(SENDERS)]
        self.processes = []
        for number in range(SENDERS):
            options = {
                "url": stack.api_url,
                "key": keys[number % len(keys)],
                "seed": seed,
                "number": number,
                # Devices of the same names in both fleets.
                "group": number // len(keys),
                "ledger": str(self.ledgers[number]),
                "begin_us": begin_us,
                "rate": RATE,
            }
            command = [sys.executable, "-m", "tests.chaos.client", json.dumps(options)]
            self.processes.append(
                subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            )
        self.readers = [
            threading.Thread(target=self._read, args=(number,)) for number in range(SENDERS)
        ]
        for reader in self.readers:
            reader.start()

    def _read(self, number: int) -> None:
        stdout = self.processes[number].stdout
        assert stdout is not None
        with stdout:
            for line in stdout:
                self.figures[number] = json.loads(line)

    def fleet(self, number: int) -> str:
        """The fleet that sender `number` sends for."""
        return FLEETS[number % len(FLEETS)]

    def finish(self) -> None:
        """Let them deliver what they have begun, then wait for them."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process, reader in zip(self.processes, self.readers, strict=True):
            process.wait()
            reader.join()

    def kill(self) -> None:
        """End them at once."""
        for process in self.processes:
            process.kill()


def _second_key(stack: Stack) -> str:
    command = ("flask", "--app", "web", "keys", "create", "--quiet", "--fleet", FLEETS[1])
    more = ("--name", "chaos", "--scopes", "ingest,read")
    done = subprocess.run(
        [sys.executable, "-m", *command, *more],
        check=True,
        cwd=ROOT,
        env=dict(stack.environment),
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.strip()


class Poison:
    """Entries made by hand, past the door: they must be buried, each for its reason."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.planted: dict[str, str] = {}

    def plant(self) -> None:
        """Put one into the stream; tried until the server has confirmed it."""
        kind: Kind = self.rng.choice([METER, VEHICLE])
        mark = f"poison-{len(self.planted)}-{self.rng.randrange(10**9)}"
        lawful = {"timestamp": "2026-01-10T10:00:00Z", **{m.field: m.low for m in kind.measures}}
        foreign = json.dumps([{kind.id_field: mark, **lawful}])
        recipes: list[tuple[dict[Any, Any], str]] = [
            ({"x": mark}, "UNREADABLE"),
            ({"v": "1", "f": 1, "n": 1, "b": f"[{mark}"}, "UNREADABLE"),
            ({"v": "1", "f": 1, "n": 1, "b": json.dumps([{"id": mark}])}, "UNREADABLE"),
            ({"v": "1", "f": 999_999, "n": 1, "b": foreign}, "UNKNOWN_FLEET"),
        ]
        fields, reason = self.rng.choice(recipes)
        self.planted[mark] = reason
        while True:
            try:
                stream.client().xadd(stream._key(kind), fields)
                return
            except redis.RedisError:
                time.sleep(0.2)


class Storm:
    """The faults of a run, one after the other, and what became of them."""

    def __init__(self, stack: Stack, run: Run, probe: Probe, chosen: list[Fault]) -> None:
        self.run, self.probe = run, probe
        self.order = faults.Order(chosen, run.seed)
        rng = random.Random(f"storm {run.seed}")
        self.scene = Scene(stack, rng, run.longest_freeze)
        self.poison = Poison(random.Random(f"poison {run.seed}"))
        self.began = time.monotonic()
        self.now = "warming up"

    def rage(self, until: float) -> None:
        """Strike until `until` (of time.monotonic)."""
        while time.monotonic() < until:
            self.strike(self.order.next())
            if self.scene.rng.random() < 0.3:
                self.poison.plant()
            time.sleep(self.scene.rng.uniform(0, BREATH_SECONDS))

    def strike(self, together: tuple[Fault, ...]) -> None:
        """One fault, or two at once; then wait until the product is well again."""
        name = " + ".join(fault.name for fault in together)
        self.now = name
        threads = [threading.Thread(target=self._strike_one, args=(f,)) for f in together]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ended = time.time()
        for fault in together:
            try:
                seconds = self.probe.recovered(fault.program, ended)
            except NotRecovered as trouble:
                self.run.findings.add("not recovered", f"{name}: {trouble}")
                continue
            alone = len(together) == 1
            self.run.recoveries[name if alone else verdict.TOGETHER].append(seconds)
            self.log(f"{fault.name}: well again after {seconds:.1f} s")

    def _strike_one(self, fault: Fault) -> None:
        self.log(fault.name)
        self.run.struck[fault.name] += 1
        try:
            fault.strike(self.scene)
        except Exception as error:  # whatever a strike meets is told at the end
            self.run.findings.add("not recovered", f"{fault.name} could not strike: {error!r}")

    def log(self, text: str) -> None:
        """A line with its time beside the processes' logs."""
        with (self.scene.stack.home.logs / "chaos.log").open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}\n")


class Progress:
    """One line that says how it goes."""

    def __init__(self, senders: Senders, run: Run, storm: Storm) -> None:
        self.parts = senders, run, storm
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._show)

    def __enter__(self) -> Progress:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _show(self) -> None:
        senders, run, storm = self.parts
        live = sys.stdout.isatty()
        while not self.over.wait(1 if live else 10):
            acknowledged = sum(f.get("acknowledged", 0) for f in senders.figures)
            line = (
                f"{time.monotonic() - storm.began:5.0f} s   acknowledged {acknowledged:>9,}"
                f"   faults {run.struck.total():>4}   {storm.now[:40]}"
            )
            print(f"\r{line:<79}" if live else line, end="" if live else "\n", flush=True)
        print(flush=True)


def settle(run: Run, database_url: str) -> None:
    """Wait until all that was accepted is worked off and summed up."""
    began = time.monotonic()
    while _waiting() or _dirty(database_url):
        if time.monotonic() - began > DRAIN_SECONDS:
            break
        time.sleep(0.2)
    run.drain_seconds = time.monotonic() - began
    entries, pending = (sum(column) for column in zip(*map(_backlog, KINDS.values()), strict=True))
    for what, count in (("stream not empty", entries), ("pending", pending)):
        if count:
            run.findings.add(what, count)
    quiet = time.time()
    while _computed_at(database_url) <= quiet:  # a summary that has seen everything
        if time.time() - quiet > DRAIN_SECONDS:
            run.findings.add("summary", "no tick after the load had ended")
            return
        time.sleep(0.2)


def _backlog(kind: Kind) -> tuple[int, int]:
    pending = stream.client().xpending(stream._key(kind), stream.GROUP)
    return stream.waiting(kind), int(pending["pending"])


def _waiting() -> bool:
    return any(sum(_backlog(kind)) for kind in KINDS.values())


def _asked(database_url: str, query: LiteralString | sql.Composed) -> Any:
    with psycopg.connect(database_url, connect_timeout=5) as conn:
        row = conn.execute(query).fetchone()
    return row[0] if row else None


def _dirty(database_url: str) -> bool:
    query = sql.SQL("SELECT EXISTS (SELECT FROM {})")
    return any(
        _asked(database_url, query.format(sql.Identifier(kind.dirty.name)))
        for kind in KINDS.values()
    )


def _computed_at(database_url: str) -> float:
    """When the summary that is behind most was computed, seconds since 1970."""
    query = "SELECT extract(epoch FROM min(computed_at)) FROM vehicle_performance_24h"
    return float(_asked(database_url, query) or 0)


def storm(run: Run, stack: Stack, folder: Path, chosen: list[Fault]) -> None:
    """Load and faults for as long as asked, then the comparison."""
    for name in ("DATABASE_URL", "STREAM_URL", "CELERY_BROKER_URL"):
        os.environ[name] = stack.environment[name]
    settings.load.cache_clear()
    begin_us = (int(time.time()) - BEGIN_HOURS * 3600) * 1_000_000
    senders = Senders(stack, folder, run.seed, begin_us)
    probe_ledger = folder / "probe.ledger"
    probe = Probe(stack, Ledger(probe_ledger), begin_us + 7 * SPACING_US)
    weather = Storm(stack, run, probe, chosen)
    try:
        with Progress(senders, run, weather):
            time.sleep(WARM_SECONDS)
            weather.rage(weather.began + run.seconds)
            weather.now = "delivering what was begun"
            senders.finish()
            probe.sender.ledger.close()
            weather.now = "draining"
            settle(run, stack.environment["DATABASE_URL"])
    finally:
        senders.kill()
    run.senders = [*senders.figures, _told(probe.sender.figures)]
    for number, figures in enumerate(senders.figures):
        if not figures.get("done"):
            run.findings.add("sender not done", number)
    for violation in (v for figures in run.senders for v in figures.get("violations", [])):
        run.findings.add("wrong answer", violation)
    print("comparing the ledgers with the database", flush=True)
    sent: dict[str, list[ledger.Sent]] = {fleet: [] for fleet in FLEETS}
    sent[FLEETS[0]].append(ledger.read(probe_ledger))
    for number, path in enumerate(senders.ledgers):
        sent[senders.fleet(number)].append(ledger.read(path))
    found = oracle.check(stack.environment["DATABASE_URL"], sent, weather.poison.planted)
    run.findings.compared += found.compared
    run.findings.wrong += found.wrong
    run.findings.examples += found.examples
    (folder / "findings.json").write_text(oracle.dumped(run.findings))


def _told(figures: Figures) -> dict[str, Any]:
    names = ("acknowledged", "requests", "tries", "statuses", "unavailable", "unanswered")
    return {name: getattr(figures, name) for name in (*names, "violations")}


def main(arguments: list[str] | None = None) -> int:
    """Run and judge."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, shown")
    parser.add_argument("--faults", default="*", help="patterns, e.g. 'stream-*,web-kill'")
    parser.add_argument("--freeze", type=float, help="seconds of the longest freeze")
    parser.add_argument("--list", action="store_true", help="show the faults and end")
    parser.add_argument("--keep", action="store_true", help="keep ledgers and logs in any case")
    asked = parser.parse_args(arguments)
    if asked.list:
        print("\n".join(faults.FAULTS))
        return 0
    try:
        chosen = faults.chosen(asked.faults)
    except ValueError as error:
        parser.error(str(error))
    seed = random.randrange(10**6) if asked.seed is None else asked.seed
    usual = LONG_FREEZE if asked.seconds >= LONG_RUN_SECONDS else SHORT_FREEZE
    run = Run(seed, asked.seconds, asked.faults, asked.freeze or usual)
    folder = Path(tempfile.mkdtemp(prefix="energy-chaos-"))
    given = ("DATABASE_URL", "STREAM_URL", "CELERY_BROKER_URL")
    environment = {name: value for name, value in os.environ.items() if name not in given}
    environment["ROLLUP_INTERVAL_SECONDS"] = "2"  # so that ticks meet faults
    print(f"chaos with seed {run.seed}: starting the stack in {folder}", flush=True)
    with running(folder / "home", environment=environment) as stack:
        storm(run, stack, folder, chosen)
    print(verdict.screen(run), flush=True)
    if run.passed and not asked.keep:
        shutil.rmtree(folder)
    else:
        print(f"ledgers, findings and logs are kept in {folder}")
    return 0 if run.passed else 1


if __name__ == "__main__":
    sys.exit(main())
