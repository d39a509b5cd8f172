"""Checks shards as `check_worker` does, but starts late, or dies or blocks on some, by name."""

import os
import signal
import time

from stage1_extract.child import connect_to_run
from stage1_extract.shard_check import check_shard

SIGNALS = {"crash.h5": signal.SIGSEGV, "killed.h5": signal.SIGKILL}


def main() -> None:
    connection, _ = connect_to_run(lambda: os._exit(1))
    time.sleep(float(os.environ.get("FAULTY_START_SECONDS", "0")))
    connection.send(0)
    while True:
        try:
            path, state = connection.recv()
        except EOFError:
            return
        if path.name in SIGNALS:
            os.kill(os.getpid(), SIGNALS[path.name])
        if path.name == "hang.h5":
            time.sleep(3600)
        connection.send(check_shard(path, state))
