"""Without its library an adapter says what to install."""

from __future__ import annotations

import importlib
import sys

import pytest

from realm.errors import MissingLibraryError

ADAPTERS = {
    "langchain": ("langchain_core", "langchain-core"),
    "llamaindex": ("llama_index", "llama-index-core"),
    "haystack": ("haystack", "haystack-ai"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_library_that_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, package = ADAPTERS[name]
    for loaded in [*sys.modules]:
        if loaded.split(".")[0] == module:
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"realm.adapters.{name}", raising=False)
    with pytest.raises(MissingLibraryError) as caught:
        importlib.import_module(f"realm.adapters.{name}")
    assert f"'{package}'" in str(caught.value) and f"pip install 'realm-lm[{name}]'" in str(caught.value)
