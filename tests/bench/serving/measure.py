"""Everything in turn, from within the image: `measure.py SECONDS FILE`; FILE gets what was found as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench.serving.figures import BATCH, CONNECTIONS, DELAY, MUSTER, Point, Shards, point_of, same, told
from tests.bench.serving.models import MODELS, PROGRAM
from tests.bench.serving.running import Running, ServerError, on_cores, running
from tests.bench.serving.servers import Server, all_of, batches, muster

SHARDS, SHARD_CONNECTIONS = (1, 2, 4), 16
ROUNDS = 5
"""In which the servers take turns at each figure, every other one in the opposite order: machines get slower and faster
within minutes, by more than what is to be told apart."""

_ROOT = Path(__file__).parents[3]
_WARM_UP = 0.5  # seconds before each load that do not count
_LIMIT = 120.0  # seconds that a program of ours may take beyond its time


@dataclass
class Measurement:
    """`place`: a directory for everything. The servers have the first core and the load generator the second."""

    place: Path
    seconds: float
    cores: Sequence[int]
    raw: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    shards: list[Shards] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        self._program("models", str(self.place), cores=self.cores)
        found = json.loads((self.place / "samples.json").read_text())
        self._samples, self._answers = found["samples"], found["answers"]
        for model in MODELS:
            self._torch(model.name)
            self._servers(model.name)
        self._shards(MODELS[-1].name)

    def _torch(self, model: str) -> None:
        for batch in (1, BATCH):
            words = (str(self.place / model / PROGRAM), str(batch), str(self.seconds / 2))
            rate = float(self._program("raw", *words, cores=self.cores[:1]))
            self.raw.setdefault(model, {}).setdefault(batch, []).append(rate)
            _say(f"{model}, torch alone, batches of {batch}: {rate:,.0f} samples/s")

    def _servers(self, model: str) -> None:
        """All of them wait beside the one that is asked; before, each is alone, for its memory to be measured."""
        alone = self._alone(model)
        memory = {name: taken for name, (_, taken) in alone.items()}
        servers: dict[str, tuple[Server, Running]] = {}
        with contextlib.ExitStack() as all_run:
            for name, (server, _) in alone.items():
                with self._leaving_out(model, name):
                    one = all_run.enter_context(running(server, self._logs(model, name), self.cores[:1], _ROOT))
                    servers[name] = server, one
            for server, one in servers.values():
                self._warm_up(server, model, one)
            for connections in CONNECTIONS:
                found = self._rounds(model, connections, servers)
                self.points += [point_of(model, name, connections, of, memory[name]) for name, of in found.items()]
                for point in self.points[-len(found) :]:
                    _say(told(point))
                self._torch(model)

    def _alone(self, model: str) -> dict[str, tuple[Server, int]]:
        """By name, and the memory that each takes."""
        found: dict[str, tuple[Server, int]] = {}
        for name, prepared in all_of(self.place / model, self.place / "peers" / model).items():
            with self._leaving_out(model, name):
                server = prepared()
                with running(server, self._logs(model, name) / "alone", self.cores[:1], _ROOT) as one:
                    self._warm_up(server, model, one)
                    found[name] = server, one.memory
        return found

    def _logs(self, model: str, name: str) -> Path:
        return self.place / "logs" / model / name.replace(", ", "-")

    def _warm_up(self, server: Server, model: str, one: Running) -> None:
        """Java and Python make themselves faster at first."""
        self._load(server, model, one, CONNECTIONS[1], max(2.0, self.seconds / 2))

    def _rounds(
        self, model: str, connections: int, servers: dict[str, tuple[Server, Running]]
    ) -> dict[str, list[dict[str, Any]]]:
        """What each load found, by server; one that answers wrong is left out from then on."""
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
        for number in range(ROUNDS):
            for name, (server, one) in [*servers.items()][:: -1 if number % 2 else 1]:
                with self._leaving_out(model, name):
                    found[name].append(self._load(server, model, one, connections, self.seconds / ROUNDS))
                if len(found[name]) <= number:
                    del servers[name], found[name]
        return found

    @contextlib.contextmanager
    def _leaving_out(self, model: str, name: str) -> Iterator[None]:
        """A peer that does not do what it is to do."""
        try:
            yield
        except (ServerError, subprocess.CalledProcessError) as error:
            if name.startswith(MUSTER):
                raise
            self.left_out[f"{model}, {name}"] = str(error)
            _say(f"{model}, {name}: left out: {error}")

    def _shards(self, model: str) -> None:
        for count in SHARDS:
            for words in ((), batches(DELAY)):
                server = muster(self.place / model, MUSTER, "--data", str(count), *words)
                place = self.place / "logs" / f"shards-{count}{'-batches' * bool(words)}"
                with running(server, place, self.cores, _ROOT) as one:
                    found = self._load(server, model, one, SHARD_CONNECTIONS, self.seconds, self.cores)
                shards = Shards(count, bool(words), found["rate"], found["p99"])
                self.shards.append(shards)
                _say(f"{model}, --data {' '.join((str(count), *words))}: {shards.rate:,.0f} requests/s")

    def _load(
        self,
        server: Server,
        model: str,
        one: Running,
        connections: int,
        seconds: float,
        cores: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """What the load generator found; raises ServerError where an answer is not the model's."""
        asked = {
            "requests": [server.request(sample) for sample in self._samples],
            "port": server.port,
            "connections": connections,
            "warm_up": _WARM_UP,
            "seconds": seconds,
            "server": one.processes,
        }
        file = self.place / "load.json"
        file.write_text(json.dumps(asked))
        found: dict[str, Any] = json.loads(self._program("load", str(file), cores=cores or self.cores[1:2]))
        for number, answer in found.pop("answers"):
            if not same(server.read(answer), self._answers[model][number]):
                raise ServerError(f"{server.name}: to sample {number} it answers {answer}")
        return found

    def _program(self, name: str, *words: str, cores: Sequence[int]) -> str:
        """What a program of this benchmark prints."""
        done = subprocess.run(
            [*on_cores(cores), sys.executable, "-m", f"tests.bench.serving.{name}", *words],
            env=os.environ | {"PYTHONPATH": f"{_ROOT}:{_ROOT / 'worker_image'}", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=self.seconds + _LIMIT,
        )
        if done.returncode:
            raise ServerError(f"{name} {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return done.stdout


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    seconds, file = float(sys.argv[1]), Path(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("one core: wanted two, one for the servers and one for the load generator")
    with TemporaryDirectory() as place:
        measurement = Measurement(Path(place), seconds, cores)
        measurement.run()
    found = asdict(measurement)
    file.write_text(json.dumps({name: found[name] for name in ("raw", "points", "shards", "left_out")}))


if __name__ == "__main__":
    main()
