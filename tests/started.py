"""Programs on managed runtimes that say a line of JSON at the start, then one for each line they read."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

# keep N: keeps N more arrays of 100, and says how many there are. waste N: makes them and lets them go.
# spin MS: does nothing else for that long.
KEEPING = """
const kept = [];
const lines = require('readline').createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const [word, count] = line.split(' ');
  if (word === 'exit') process.exit(+count);
  if (word === 'spin') {
    console.log('"spins"');
    for (const until = Date.now() + +count; Date.now() < until; );
    return;
  }
  if (word === 'waste') for (let i = 0; i < +count; i++) new Array(100).fill(null);
  if (word === 'keep') kept.push(Array.from({ length: +count }, () => new Array(100).fill(null)));
  console.log(JSON.stringify(kept.flat().length));
});
lines.on('close', () => process.exit());
console.log(JSON.stringify(process.pid));
"""


class Ended(Exception):
    """The program ended without a word more; what it had written on stderr."""


class Started:
    """A program that says lines of JSON; `said` is its first."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        self.pid = self.process.pid
        self.said = self.listen()

    def listen(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Ended(self.process.communicate())
        return json.loads(line)

    def ask(self, line: str) -> Any:
        self.tell(line)
        return self.listen()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Ends it and its children (they share the session that was made for it)."""
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
