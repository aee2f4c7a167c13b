"""
Work on all cores: a pool of processes that goes on when one of them crashes.

    python examples/processes.py

It counts primes in parts of a range.  One part has bad luck: its process is killed, and a
new one takes its place.  The other parts never notice.
"""

import os
import signal

from pydistrib import Pool, WorkerDied

UNLUCKY = 3


def count_primes(part: int) -> int:
    """Count the primes among the 20,000 numbers of a part."""
    if part == UNLUCKY:
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory runs out
    numbers = range(max(2, 20_000 * part), 20_000 * (part + 1))
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in numbers)


with Pool() as pool:
    results = {part: pool.apply_async(count_primes, (part,)) for part in range(6)}
    for part, result in results.items():
        try:
            print(f"part {part}: {result.get()} primes")
        except WorkerDied as died:
            print(f"part {part}: {died}")
