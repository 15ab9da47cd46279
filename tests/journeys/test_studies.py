"""Studies of many runs through the real command line: killed in the middle, they go on where they were."""

import json
import signal
import subprocess
import sys
import time

import pytest

COMMAND = [sys.executable, "-c", "import evax.cli; evax.cli.main()"]
SMALL = [
    "--image-size", "64", "--steps", "1", "--batch-size", "4", "--resamples", "20", "--workers", "1",
    "--precision", "fp32", "--compile", "off",
]  # fmt: skip
STUDIES = {
    "crossvalidate": (["--folds", "3"], "fold-0", 3),
    "fewshot": (["--counts", "3", "--seeds", "0", "1"], "count-3-lr-0.001-seed-0", 2),
}


@pytest.mark.long
@pytest.mark.parametrize("command", STUDIES)
def test_a_study_that_was_killed_goes_on_and_repeats_no_finished_run(phantom_store, tmp_path, command):
    options, first, runs = STUDIES[command]
    arguments = [*COMMAND, command, str(phantom_store), "--out", str(tmp_path / "run"), *options, *SMALL]
    finished = tmp_path / "run" / "runs" / first / "report.json"
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
        while not finished.is_file():
            assert process.poll() is None, "the study ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    written = finished.stat().st_mtime_ns
    result = tmp_path / "run" / f"{command}.json"
    assert not result.is_file()
    done = subprocess.run([*arguments, "--resume"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(result)), done.stderr
    assert finished.stat().st_mtime_ns == written
    assert len(list((tmp_path / "run" / "runs").iterdir())) == runs
    content = json.loads(result.read_text())
    assert content["protocol"]["name"] == "clean"
    again = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "continue with --resume" in again.stderr
