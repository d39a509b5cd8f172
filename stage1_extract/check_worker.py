"""A process that checks shards: where damage crashes or blocks HDF5, it costs one shard alone."""

import os
import resource
import time

from stage1_extract.child import connect_to_run
from stage1_extract.provenance import StoreError
from stage1_extract.shard_check import check_shard

_BEAT_SECONDS = 0.2


def main() -> None:
    """Check the shards that the run names until it closes the connection."""
    connection, _ = connect_to_run(lambda: os._exit(1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is reported, not dumped
    connection.send(0)  # it has started: silence counts from here on
    read, told = 0, time.monotonic()

    def beat(num_bytes: int) -> None:
        nonlocal read, told
        read += num_bytes
        if time.monotonic() - told >= _BEAT_SECONDS:
            connection.send(read)
            read, told = 0, time.monotonic()

    while True:
        try:
            path, state = connection.recv()
        except EOFError:
            return
        read, told = 0, time.monotonic()
        try:
            connection.send(check_shard(path, state, beat))
        except StoreError as error:
            connection.send(error)
