"""Everything that `realm` raises on purpose.

::

    Exception
    └── RealmError                 one line: found, expected, what to do
        ├── UsageError             the caller asked for something impossible        (exit code 2)
        ├── DataError              a source, document or record can't be used
        │   ├── AbsentError        a document that should be there is not
        │   ├── PresentError       a document is there already
        │   └── ChangedError       a document is no longer what the writer had read
        ├── KnowledgeBaseError     a knowledge base is missing, damaged or in use
        ├── ArtefactError          a file of ours is missing, torn or of another format
        │   └── MismatchError      two artefacts that were not made for each other
        ├── MissingLibraryError    an optional library is not installed
        ├── UnavailableError       something outside (network, hub, registry) can't be reached
        └── TrainingError          training can't go on (non-finite loss, dead refresher)
"""

from __future__ import annotations


class RealmError(Exception):
    """Base of all errors of the library. The message is one line: found / expected / what to do."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        # A message may quote outside text; a stray newline must not break the one-line promise.
        super().__init__(" ".join(str(message).split()))


class UsageError(RealmError):
    """The caller asked for something impossible: a wrong option, name or combination."""

    exit_code = 2


class DataError(RealmError):
    """A source, document or record can't be used as it is."""


class AbsentError(DataError):
    """A document that should be there is not."""


class PresentError(DataError):
    """A document is there already."""


class ChangedError(DataError):
    """A document was changed by somebody else since the writer read it."""


class KnowledgeBaseError(RealmError):
    """A knowledge base is missing, damaged, or held by another writer."""


class ArtefactError(RealmError):
    """A file or folder written by this library is missing, torn, or of another format."""


class MismatchError(ArtefactError):
    """Two artefacts were not made for each other; the message names both sides."""


class MissingLibraryError(RealmError):
    """An optional library is not installed; the message holds the install command."""

    def __init__(self, library: str, extra: str, what: str) -> None:
        super().__init__(
            f"{what} needs the library {library!r}, which is not installed: pip install 'realm-lm[{extra}]'"
        )


class UnavailableError(RealmError):
    """Something outside this machine (network, hub, package registry) can't be reached."""


class TrainingError(RealmError):
    """Training can't go on."""
