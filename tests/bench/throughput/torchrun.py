"""torchrun, also where torch was built without libuv."""

from __future__ import annotations

from torch.distributed.run import main

from tests.bench.throughput import libuv

if __name__ == "__main__":
    libuv.do_without()
    main()
