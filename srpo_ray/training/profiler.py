"""Profiler of a run's updates: one Chrome trace per update, from torch's profiler."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


class UpdateProfiler:
    """Profiler of the updates after the first one of this process.

    The first update is profiled too, but its trace is dropped: it includes one-time work such as the start of the
    profiler, memory allocation and compilation.
    """

    def __init__(self, folder: Path, updates: int, *, gpu: bool) -> None:
        """Profile a number of updates.

        Args:
            folder: Folder of the traces; created with the first one.
            updates: Number of updates with a trace; 0 profiles none.
            gpu: True adds the kernels of the GPU.
        """
        self._folder = folder
        self._left = updates + 1 if updates else 0
        self._warm = False
        self._activities = [ProfilerActivity.CPU]
        if gpu:
            self._activities.append(ProfilerActivity.CUDA)

    @contextmanager
    def update(self, update: int) -> Iterator[None]:
        """Profile the block, which makes an update, and write its trace to `update_<number>.json.gz`.

        Args:
            update: Updates made at the end of the block.
        """
        if not self._left:
            yield
            return
        with profile(activities=self._activities) as trace:
            yield
        if self._warm:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Torch compresses a trace whose name ends in .gz. The name changes last, so no trace is partial.
            unfinished = self._folder / f".update_{update:06d}.unfinished.json.gz"
            trace.export_chrome_trace(str(unfinished))
            unfinished.replace(self._folder / f"update_{update:06d}.json.gz")
        self._warm = True
        self._left -= 1
