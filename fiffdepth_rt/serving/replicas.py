"""The work on Ray Serve: one Depth per replica, photos of several clients in one batch.

    Service (app.py, in this process) ──► handle ──► replica ──► work.Work ──► its Depth

Ray Serve starts replicas where there is room, starts one again that died, and shares photos among them. Its
own HTTP proxies stay off: they take in an upload of any length before an application sees its first byte
(read in Ray 2.60: proxy.py, proxy_asgi_receive), they let a slow client hold a place in a replica, and their
refusals are text. So HTTP is served by app.py, in the process that the user starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray import serve

import fiffdepth_rt
from fiffdepth_rt import telemetry
from fiffdepth_rt.cluster.actors import root_cause, silenced
from fiffdepth_rt.cluster.connecting import LOCAL, connected
from fiffdepth_rt.depth import Depth
from fiffdepth_rt.depth_map import DepthMap
from fiffdepth_rt.errors import BackendUnavailableError, FiffDepthError
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.processes import environment
from fiffdepth_rt.serving.app import Service
from fiffdepth_rt.serving.forms import Form
from fiffdepth_rt.serving.limits import Limits
from fiffdepth_rt.serving.replies import BROKEN, Reply, busy
from fiffdepth_rt.serving.work import Work

_log = logging.getLogger(__name__)

BATCH_ON_GPU = 4
"""Photos at once. Written, never run on a GPU. On CPUs a batch gains nothing: nano takes as long for each."""
_DEPLOYMENT = "depth"
LOOK_EVERY_S = 1.0
"""Between two looks at how many replicas run."""


class Replica:
    """An opened engine directory in a process of its own."""

    def __init__(self, open_depth: Callable[[], Depth], limits: Limits, batch: int) -> None:
        telemetry.switch_off()
        self._batched.set_max_batch_size(batch)
        self.trouble: FiffDepthError | None = None
        try:
            self._depth = open_depth()
        except FiffDepthError as error:  # to be said as its sentence; raised here, it would be tried again
            self.trouble = error
        else:
            self._work = Work(self._depth, limits, infer=self._infer)

    async def answer(self, photo: bytes, form: str) -> Reply:
        """As Work.answer."""
        if self.trouble is not None:
            return busy("The replica has no engine: its log says why.", retry_after_s=60).reply
        return await self._work.answer(photo, Form(form))

    async def troubles(self) -> FiffDepthError | None:
        """Why the engine could not be opened; None where it is."""
        return self.trouble

    async def _infer(self, pixels: Pixels) -> DepthMap:
        found: DepthMap = await self._batched(pixels)
        return found

    # No waiting for others: what came while the last batch was computed makes the next one.
    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0)  # type: ignore[untyped-decorator] # not read
    async def _batched(self, photos: list[Pixels]) -> list[DepthMap]:
        return await asyncio.to_thread(self._depth.infer_batch, photos)


class Replicas:
    """As app.Workers: photos to whichever replica has room. at_once: how many photos all of them take."""

    def __init__(self, handle: Any, name: str, *, at_once: int) -> None:
        self._handle = handle
        self._name = name
        self.at_once = at_once

    @contextlib.contextmanager
    def watched(self, service: Service) -> Iterator[None]:
        """Until the block ends, the service is ready while a replica is there."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(LOOK_EVERY_S):
                there = self._is_there()
                if not ended.is_set():
                    service.ready = there

        looking = threading.Thread(target=look, name="replicas", daemon=True)
        looking.start()
        try:
            yield
        finally:
            ended.set()
            looking.join(5)

    def _is_there(self) -> bool:
        try:
            states = serve.status().applications[self._name].deployments[_DEPLOYMENT].replica_states
        except (KeyError, ray.exceptions.RayError):
            return False
        return bool(states.get("RUNNING", 0))

    async def answer(self, photo: bytes, form: Form) -> Reply:
        """A photo whose replica died goes to another one, once: it may be what killed it."""
        for _ in range(2):
            response = self._handle.answer.remote(photo, form.value)
            try:
                reply: Reply = await response
                return reply
            except asyncio.CancelledError:
                response.cancel()
                raise
            except serve.exceptions.BackPressureError as error:
                raise busy("As many photos wait as may: send it again later.", retry_after_s=1) from error
            except (ray.exceptions.RayActorError, serve.exceptions.DeploymentUnavailableError) as error:
                _log.warning("A replica was lost: %s", root_cause(error))
        raise BROKEN


@contextlib.contextmanager
def replicas(
    open_depth: Callable[[], Depth],
    limits: Limits,
    *,
    address: str = LOCAL,
    count: int | None = None,
    batch: int | None = None,
) -> Iterator[Replicas]:
    """Replicas on a Ray cluster, until the block ends.

    open_depth: pickled, and called in each replica, on whichever machine. address: as cluster.connected takes
    it. count: None for one per GPU of the cluster, or one per machine where there is none. batch: how many
    photos run together at most; None for BATCH_ON_GPU, or 1.

    Raises ClusterError; what opening raises; BackendUnavailableError where no replica starts.
    """
    name = f"fiffdepth-{secrets.token_hex(4)}"  # several services may share a cluster
    with (
        silenced("ray.serve"),
        environment(RAY_worker_niceness="0"),  # of a cluster that starts here; else 15, behind all others
        connected(address, packages=(fiffdepth_rt,), bundled=True),
        contextlib.ExitStack() as undo,
    ):
        gpus = int(ray.cluster_resources().get("GPU", 0))
        machines = sum(bool(node["Alive"]) for node in ray.nodes())
        count = count or gpus or machines
        batch = batch or (BATCH_ON_GPU if gpus else 1)
        each = 2 * batch  # one batch is computed while the next one is decoded
        share: dict[str, Any] = {"num_cpus": 0, "num_gpus": 1} if gpus else {"num_cpus": 0.25}
        deployment = serve.deployment(
            Replica,
            name=_DEPLOYMENT,
            num_replicas=count,
            max_replicas_per_node=None if gpus else math.ceil(count / machines),
            ray_actor_options=share,
            max_ongoing_requests=each,
            # app.Service counts more exactly; this one holds where it does not.
            max_queued_requests=limits.waiting + each * count,
            graceful_shutdown_timeout_s=limits.drain_s,
        )
        serve.start(proxy_location="Disabled", logging_config={"enable_access_log": False})
        if address != LOCAL:  # a local one goes with all that it holds
            undo.callback(_delete, name)
        try:
            handle = serve.run(deployment.bind(open_depth, limits, batch), name=name, route_prefix=None)
        except RuntimeError as error:
            raise BackendUnavailableError(
                f"No replica starts on the cluster ({root_cause(error)}): `ray status` says what it has room "
                "for, the logs of Ray Serve what it said."
            ) from error
        trouble = handle.troubles.remote().result()
        if trouble is not None:
            raise trouble
        yield Replicas(handle, name, at_once=each * count)


def _delete(name: str) -> None:
    with contextlib.suppress(TimeoutError, RuntimeError, ray.exceptions.RayError):  # the cluster may be gone
        serve.delete(name)
