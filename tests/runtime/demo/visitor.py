"""A visitor of the page without a browser: what a browser sends, by HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """Of the server."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Outcome(NamedTuple):
    """Of a click. data: what each output shows; or the sentence of what went wrong. said: beside them."""

    success: bool
    data: Any
    error: str | None
    said: tuple[str, ...] = ()


class Visitor:
    """Of the page at `address`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.session = uuid.uuid4().hex
        config = json.loads(self.get("config").body)
        self.prefix = config["api_prefix"].strip("/")
        self._components = {one["id"]: one for one in config["components"]}
        self._events = config["dependencies"]

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self._send(urllib.request.Request(self.address + path, headers=dict(headers or {})))

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        return self._send(
            urllib.request.Request(self.address + path, data=body, headers=dict(headers), method="POST")
        )

    def upload(self, name: str, content: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """name: as a hostile browser may write it; only quotes and line ends are not its to choose."""
        mark = uuid.uuid4().hex
        quoted = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        body = (
            f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{quoted}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode(errors="surrogateescape")
        body += content + f"\r\n--{mark}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={mark}", **(headers or {})}
        return self.post(f"{self.prefix}/upload", body, kind)

    def give(self, name: str, content: bytes, **settings: Any) -> Outcome:
        """Upload a photo and have it looked at."""
        answer = self.upload(name, content)
        if answer.status != 200:
            return Outcome(False, None, f"{answer.status} {answer.body.decode(errors='replace')}")
        return self.click("given", "input", {"given": file_at(json.loads(answer.body)[0]), **settings})

    def click(
        self, component: str, event: str, values: Mapping[str, Any], *, event_data: Any = None
    ) -> Outcome:
        """What happens on an event of the component with this elem_id. values: by elem_id or label."""
        chosen = next(
            one
            for one in self._events
            if any(self._called(target) == component and kind == event for target, kind in one["targets"])
        )
        data = [
            values.get(self._called(i), self._components[i]["props"].get("value")) for i in chosen["inputs"]
        ]
        body = {
            "data": data,
            "fn_index": chosen["id"],
            "session_hash": self.session,
            "event_data": event_data,
        }
        joined = self.post(f"{self.prefix}/queue/join", json.dumps(body).encode(), JSON)
        if joined.status != 200:
            return Outcome(False, None, f"{joined.status} {joined.body.decode(errors='replace')}")
        event_id = json.loads(joined.body)["event_id"]
        with self._open(
            urllib.request.Request(f"{self.address}{self.prefix}/queue/data?session_hash={self.session}")
        ) as lines:
            said: list[str] = []
            for line in lines:
                message = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if message.get("msg") == "log":
                    said.append(message["log"])
                if message.get("msg") == "process_completed" and message.get("event_id") == event_id:
                    output = message["output"]
                    return Outcome(message["success"], output.get("data"), output.get("error"), tuple(said))
        raise AssertionError("the click never ended")

    def _called(self, component_id: int) -> str:
        props = self._props(component_id)
        return props.get("elem_id") or props.get("label") or props.get("value") or ""

    def _props(self, component_id: int) -> dict[str, Any]:
        return self._components[component_id]["props"]

    def _send(self, request: urllib.request.Request) -> Answer:
        try:
            with self._open(request) as response:
                return Answer(response.status, response.read(), dict(response.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read(), dict(error.headers))

    def _open(self, request: urllib.request.Request) -> Any:
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60)


JSON = {"Content-Type": "application/json"}


def file_at(path: str) -> dict[str, Any]:
    """What a browser sends for a file that it has uploaded."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}
