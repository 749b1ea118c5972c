"""When a batch does not fit into memory."""

import gc

import torch

_WORDS = (  # how torch's allocators without an error class of their own put it
    "out of memory",
    "can't allocate memory",
    "not enough memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of memory, of a GPU or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def free(device: torch.device) -> None:
    """Give back what nothing refers to any more; the error must have been left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
