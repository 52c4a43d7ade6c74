"""Generators in this process, in place of replicas of Ray Serve."""

import asyncio

from components.serving.problems import ServiceError
from components.serving.worker import Refusal, Worker


class LocalGenerators:
    """One worker.

    Attributes:
        requests: every span that was asked for.
        num_running: spans that are not finished, refused or cancelled.
        delay_seconds: makes it slow.
        held_from: spans that begin here or later wait until this is None again.
        fail_after: spans that begin here or later fail, with `failure`.
        full: whether its queues are.
    """

    def __init__(self, num_threads=2):
        self.worker = Worker(num_threads)
        self.loaded = {}
        self.requests = []
        self.num_running = 0
        self.delay_seconds = 0.0
        self.held_from = None
        self.fail_after = None
        self.failure = ServiceError("unavailable", "The replica is gone.", 1)
        self.full = False

    async def make(self, ref, request, *, patient):
        if self.full and not patient:
            raise ServiceError("busy", "All queues are full.", 3)
        self.requests.append(request)
        self.num_running += 1
        try:
            return await self._make(ref, request)
        finally:
            self.num_running -= 1

    async def _make(self, ref, request):
        await self.prepare(ref)
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        while self.held_from is not None and request.begin >= self.held_from:
            await asyncio.sleep(0.005)
        if self.fail_after is not None and request.begin >= self.fail_after:
            raise self.failure
        answer = await self.worker.make(self.loaded[ref.key], request)
        if isinstance(answer, Refusal):
            raise ServiceError(answer.code, answer.detail)
        return answer

    async def prepare(self, ref):
        if ref.key not in self.loaded:
            loaded = await asyncio.to_thread(self.worker.load, ref)
            if isinstance(loaded, Refusal):
                raise ServiceError(loaded.code, loaded.detail, 1)
            self.loaded[ref.key] = loaded

    async def check(self):
        if self.full:
            raise ServiceError("unavailable", "No replica answers.", 3)
