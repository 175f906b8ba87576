"""What it means when an object store does not do what it was asked: one line, without secrets, and never a hang."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from realm.errors import KnowledgeBaseError, RealmError, UnavailableError
from realm.knowledge.table.places import WRITING, first_line
from realm.knowledge.table.refused import ReadOnlyError

PATIENCE = {"connect_timeout": "5s", "timeout": "30s", "client_max_retries": "3", "client_retry_timeout": "30"}
BRISK = {"connect_timeout": "3s", "timeout": "10s", "client_max_retries": "3", "client_retry_timeout": "3"}
"""Settings of Lance's client, where the environment says nothing of them. Lance tries six times to connect, whatever
these say: with BRISK it gives up a minute after a server fell silent, and 20 s after it vanished."""
_SAID = ("{}", "AWS_{}", "GOOGLE_{}", "AZURE_{}", "OBJECT_STORE_{}")
_CODE = re.compile(r"<Code>([A-Za-z]+)</Code>")
_REFUSED = re.compile(
    "AccessDenied|Forbidden|Unauthorized|SignatureDoesNotMatch|InvalidAccessKeyId|ExpiredToken|PermissionDenied"
)
_NO_CREDENTIALS = re.compile(r"CredentialsNotLoaded|failed to (get|load).{0,20}credentials", re.IGNORECASE)
_UNREACHED = re.compile(
    r"HttpError|error sending request|tcp connect|timed ?out|dns error|non-2xx status code: 5|Status \{ status: 5",
    re.IGNORECASE,
)
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|_KEY")
_REPEATED = re.compile(r"<(AWSAccessKeyId|SignatureProvided|StringToSign\w*|CanonicalRequest\w*)>[^<]*<")
_CREDENTIALS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION"


def patience(environment: Mapping[str, str], brisk: bool = False) -> dict[str, str]:
    """PATIENCE or BRISK, but for what the environment says itself."""
    said, settings = {name.upper() for name in environment}, BRISK if brisk else PATIENCE
    return {key: value for key, value in settings.items() if not said & {form.format(key.upper()) for form in _SAID}}


def explain(error: Exception, what: str, address: str) -> RealmError:
    """The error of ours that one of Lance's means, with its words, secrets left out, as the cause.

    what: what could not be done, a participle.
    """
    text, bucket = str(error), address.partition("://")[2].partition("/")[0]
    code = "".join(_CODE.findall(text)[:1])
    refused = f"the store refuses it{f' ({code})' if code else ''}"
    told: RealmError
    if code == "NoSuchBucket":
        told = KnowledgeBaseError(
            f"{address} could not be {what}: found no bucket {bucket!r} in the store; make it, or check the address "
            "and AWS_ENDPOINT"
        )
    elif _REFUSED.search(text) and what in WRITING:
        told = ReadOnlyError(
            f"{address} can't be written ({refused}): questions can be asked, nothing can be changed; expected "
            f"credentials that may write, in the environment ({_CREDENTIALS})"
        )
    elif _REFUSED.search(text):
        told = KnowledgeBaseError(
            f"{address} could not be {what}: {refused}; expected credentials that may read it, in the environment "
            f"({_CREDENTIALS})"
        )
    elif _NO_CREDENTIALS.search(text):
        told = KnowledgeBaseError(
            f"{address} could not be {what}: found no credentials; expected them in the environment ({_CREDENTIALS})"
        )
    elif _UNREACHED.search(text):
        told = UnavailableError(
            f"{address} could not be {what}: the store did not answer, or only that it could not; check the network "
            "and AWS_ENDPOINT, and do it again: what was committed is safe"
        )
    else:
        line = without_secrets(first_line(error), os.environ)
        told = KnowledgeBaseError(f"the knowledge base {address} could not be {what}: {line}")
    told.__cause__ = RuntimeError(without_secrets(text, os.environ))
    return told


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """A text with stars for what the environment holds under a name of secrets, and for the keys and signatures that a
    store repeats in its answers."""
    for name, value in environment.items():
        if _SECRET.search(name.upper()) and len(value) >= 4:
            text = text.replace(value, "***")
    return _REPEATED.sub(r"<\1>***<", text)
