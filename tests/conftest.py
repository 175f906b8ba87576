"""What every test stands on: one thread a worker, no network, no settings of the person who runs it."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports torch or a tokenizer: they read these once.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_COLOR": "1",
        "COLUMNS": "120",
    }
)
for name in [name for name in os.environ if name.startswith("REALM_")]:
    del os.environ[name]

settings.register_profile(
    "realm",
    derandomize=True,
    database=None,
    deadline=None,  # a shared machine's pauses are not the code's
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
# pytest --hypothesis-profile long: other examples at every run, 10,000 steps of a state machine.
settings.register_profile(
    "long",
    settings.get_profile("realm"),
    derandomize=False,
    max_examples=200,
    stateful_step_count=50,
    print_blob=True,
)
settings.load_profile("realm")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is read from, or left in, the caches of the person who runs the tests."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    os.environ["HF_HOME"] = str(folder / "huggingface")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anything but this machine is an error of the test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                raise RuntimeError(f"a test tried to reach {address!r}: tests are offline")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[1]
