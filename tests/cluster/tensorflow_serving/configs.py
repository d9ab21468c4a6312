"""Reads the configuration of a model server by the real messages. As a program: prints each of the files as JSON."""

import sys
from pathlib import Path

from google.protobuf import json_format, text_format
from google.protobuf.message import Message
from left_out_pb2 import BatchingParameters, MonitoringConfig
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

MESSAGES = {"models": ModelServerConfig, "monitoring": MonitoringConfig, "batching": BatchingParameters}


def read(kind: str, path: Path) -> Message:
    """Raises google.protobuf.text_format.ParseError."""
    return text_format.Parse(path.read_text(), MESSAGES[kind]())


if __name__ == "__main__":
    for file in map(Path, sys.argv[1:]):
        print(json_format.MessageToJson(read(file.stem, file), preserving_proto_field_name=True, indent=None))
