"""Runs `muster-worker agent recipe` with an entry of the test's own in place of the training runtime's."""

import os
import sys

from muster_worker.agent.agent import run
from muster_worker.agent.config import AgentConfig, Recipe

entry, _, reference = sys.argv[1:]
sys.exit(run(AgentConfig.from_environment(os.environ, Recipe(reference, entry))))
