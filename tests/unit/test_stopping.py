"""A job that was told to stop ends in time, whatever holds it up; what comes after the job may take longer."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

JOB = """
import os, signal, sys, time
from migrator.job.stopping import Signals

signals = Signals(end_s=0.2)
signals.overdue = lambda: print("overdue", flush=True)
with signals.caught():
    os.kill(os.getpid(), int(sys.argv[1]))
    assert signals.pipe.poll(0)
    time.sleep(float(sys.argv[2]))
time.sleep(float(sys.argv[3]))
print(int(signals.exit_code))
"""


@pytest.mark.parametrize(
    ("number", "job_s", "afterwards_s", "exit_code", "said"),
    [
        (signal.SIGTERM, 60.0, 0.0, 143, "overdue"),
        (signal.SIGINT, 60.0, 0.0, 130, "overdue"),
        (signal.SIGTERM, 0.0, 0.6, 0, "143"),
    ],
    ids=["held up", "held up, Ctrl-C", "takes long after the job"],
)
def test_only_what_holds_up_the_job_itself_is_cut_short(
    number: signal.Signals, job_s: float, afterwards_s: float, exit_code: int, said: str
) -> None:
    words = [sys.executable, "-c", JOB, str(int(number)), str(job_s), str(afterwards_s)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stdout.split(), ended.stderr) == (exit_code, [said], "")
