import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "resume_after_kill.py"


def test_a_run_killed_three_times_ends_as_an_unbroken_one():
    """The benchmark, which does it ten times: final parameters and metrics are identical to the bit."""
    command = [sys.executable, str(SCRIPT), "--kills", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills of 3; final state identical: True; metrics identical: True" in done.stdout
