"""A pass recorded once as a CUDA graph, and then replayed without the cost of its launches."""

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UPS = 3  # passes before the recording, in which libraries choose and allocate


class Graphed:
    """Replays a function of one tensor; a tensor of another shape is recorded anew.

    Args:
        run: (B, ...) -> (B, ...), on one CUDA device, of fixed shapes and without randomness.
    """

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        self._run = run
        self._graph: torch.cuda.CUDAGraph | None = None
        self._x = self._y = torch.empty(0)

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``run(x)``; the next call overwrites it."""
        if self._graph is None or self._x.shape != x.shape or self._x.device != x.device:
            self._record(x)
        assert self._graph is not None
        self._x.copy_(x)
        self._graph.replay()
        return self._y

    def _record(self, x: Tensor) -> None:
        self._graph = None  # the old one's memory is free for the new one
        self._x = x.clone()
        with torch.cuda.device(x.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    self._run(self._x)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._y = self._run(self._x)
        self._graph = graph


class Streams:
    """Runs functions side by side, each on a CUDA stream of its own.

    Args:
        n_streams: the most that run at once.
        device: a CUDA device.
    """

    def __init__(self, n_streams: int, device: torch.device) -> None:
        self._streams = [torch.cuda.Stream(device) for _ in range(n_streams)]

    def __call__(self, functions: list[Callable[[], None]]) -> None:
        """Call all functions; what comes after on the current stream waits for them."""
        device = self._streams[0].device
        current = torch.cuda.current_stream(device)
        for stream, function in zip(self._streams, functions, strict=True):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                function()
        for stream in self._streams:
            current.wait_stream(stream)
