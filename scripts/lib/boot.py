# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks that boot guests share."""

import subprocess
import sys
import threading
import time


def boot(command, timeout, at_init):
    """Boots a machine whose console is standard output, with the guest of scripts/guest-assets and the command `true`. Returns the
    seconds to /init, the seconds to the machine's end, and what `at_init` said of the process number at /init. A guest that does
    not end well within `timeout` seconds ends the program, with exit status 3."""
    start = time.monotonic()
    to_init = seen = None
    output = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        limit = threading.Timer(timeout, process.kill)
        limit.start()
        try:
            for line in process.stdout:
                output.append(line.decode(errors='replace'))
                if to_init is None and b'HVSDK-INIT:' in line:
                    to_init = time.monotonic() - start
                    seen = at_init(process.pid)
            status = process.wait()
        finally:
            limit.cancel()
    total = time.monotonic() - start
    if status != 0 or to_init is None or not any('HVSDK-EXIT:0' in line for line in output):
        print(f'{command[0]} ended with status {status}:\n' + ''.join(output[-40:]), file=sys.stderr)
        sys.exit(3)
    return to_init, total, seen
