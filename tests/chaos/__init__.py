"""`make chaos`: the whole product under load while its processes are killed, frozen and restarted.

    python -m tests.chaos --seconds 60 --seed 1 --faults 'stream-*,web-kill'

The way of a run, file by file

    traffic   what a sender sends: deterministic from the seed, so a run can be played again
    ledger    what was sent and what was promised with 202, fsynced: the truth of the run
    client    a process that sends until it hears 202, and keeps its ledger
    faults    what is done to which process, and how it ends
    probe     how long after a fault a new reading gets through, end to end
    reference hourly and summary rows the slow way, from the ledger's readings
    oracle    ledger against the servers: lost, unexpected, twice, latest, hours, summary, dead
    verdict   the one screen at the end
"""
