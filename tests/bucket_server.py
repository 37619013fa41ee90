"""An emulator of Google Cloud Storage on a port, with one bucket: the kept one, and what it leaves out.

    python tests/bucket_server.py PORT

An object has a generation: readers are told it in a header, writers and readers may ask for it. TensorStore,
which writes the arrays of checkpoints, goes by that.
"""

import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects


def _generation(storage: Any, bucket: str, name: str) -> int:
    """That of an object; 0 where there is none."""
    try:
        return int(storage.get_file_obj(bucket, name)["generation"])
    except NotFound:
        return 0


def _reads(real: Callable[..., None]) -> Callable[..., None]:
    def read(request: Any, response: Any, storage: Any, *others: Any, **more: Any) -> None:
        there = _generation(storage, request.params["bucket_name"], request.params["object_id"])
        if [str(there)] == request.query.get("ifGenerationNotMatch"):
            response.status = HTTPStatus.NOT_MODIFIED
            return
        response["x-goog-generation"] = str(there)
        real(request, response, storage, *others, **more)

    return read


def _writes(real: Callable[..., None]) -> Callable[..., None]:
    def write(request: Any, response: Any, storage: Any, *others: Any, **more: Any) -> None:
        asked = request.query.get("ifGenerationMatch")
        name = request.query.get("name")
        if asked and name and int(asked[0]) != _generation(storage, request.params["bucket_name"], name[0]):
            response.status = HTTPStatus.PRECONDITION_FAILED
            return
        real(request, response, storage, *others, **more)

    return write


if __name__ == "__main__":
    objects.get, objects.download = _reads(objects.get), _reads(objects.download)
    objects.insert = _writes(objects.insert)
    # It makes its table of handlers as it is imported.
    from gcp_storage_emulator.server import create_server

    create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="bucket").run()
