"""One blocking GET for JSON, for the driver; the rows go through the transport."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from lakemill.serving.client.endpoint import Endpoint

# A proxy of the environment is no way to a service on loopback or in one's own cluster.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(endpoint: Endpoint, path: str, *, timeout_s: float = 5.0) -> tuple[int, Any]:
    """Return the status and the JSON of a path; the JSON is None where the body is something else.

    Raises:
        OSError: The service could not be reached.
        ValueError: The URL of the endpoint is none.
    """
    request = urllib.request.Request(endpoint.url + path, headers=endpoint.headers)  # noqa: S310 - the operator's own URL
    try:
        with _opener.open(request, timeout=timeout_s) as response:
            return response.status, _json(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _json(error.read())


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
