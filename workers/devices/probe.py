"""Opens an Edge TPU once, or only lists them, in a process that nobody misses: `python -m workers.devices.probe`.

libedgetpu may end its process (a build that does not match the runtime does so with a segmentation fault, a USB error
by abort), or never come back. This process reads a question from its standard input and writes its answer to what was
its standard output; whatever libraries print goes to standard error. Who asks it is workers/devices/first_open.py.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec

from workers.devices.edgetpu import Bus, held
from workers.devices.wire import Listed, Question, Trial

BUSES = ("pci", "usb")
"""The numbers of edgetpu_c.h: EDGETPU_APEX_PCI, EDGETPU_APEX_USB."""


class _Device(ctypes.Structure):
    """edgetpu_c.h: struct edgetpu_device."""

    _fields_ = (("type", ctypes.c_int), ("path", ctypes.c_char_p))


def main() -> int:
    """Answer one question."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    with answer:
        answer.write(msgspec.json.encode(trial(question)))
    return 0


def trial(question: Question) -> Trial:
    """Load the library, list its devices and, where a device is named, open that and let it go."""
    try:
        library = ctypes.CDLL(question.library)
    except OSError as error:
        return Trial(
            problem=f"the library {question.library} cannot be loaded ({error}). Install libedgetpu, or set "
            "REEF_EDGETPU_LIBRARY to its path.",
            exact=True,
        )
    if not hasattr(library, "tflite_plugin_create_delegate"):
        return Trial(
            problem=f"{question.library} is no delegate: it has no tflite_plugin_create_delegate. Set "
            "REEF_EDGETPU_LIBRARY to a libedgetpu.",
            exact=True,
        )
    listed = _listed(library)
    if not question.device:
        return Trial(listed=listed)
    device, exact = question.device, question.meant != "" and listed is not None
    if exact:
        of_bus = [Path(one.path).name for one in listed or () if one.bus == question.bus]
        if question.meant not in of_bus:
            return Trial(
                problem=f"{question.library} does not see {question.meant}; it sees {', '.join(of_bus) or 'none'} "
                f"on {question.bus}.",
                exact=True,
                listed=listed,
            )
        device = f"{question.bus}:{of_bus.index(question.meant)}"
    result = _open(question, device)
    return msgspec.structs.replace(result, device=device, exact=result.exact or exact, listed=listed)


def _listed(library: ctypes.CDLL) -> tuple[Listed, ...] | None:
    """The library's own list: the order in which it numbers its devices now."""
    if not hasattr(library, "edgetpu_list_devices"):
        return _listed_by_pycoral()
    library.edgetpu_list_devices.restype = ctypes.POINTER(_Device)
    library.edgetpu_list_devices.argtypes = [ctypes.POINTER(ctypes.c_size_t)]
    count = ctypes.c_size_t()
    devices = library.edgetpu_list_devices(ctypes.byref(count))
    found = tuple(
        Listed(BUSES[devices[n].type] if devices[n].type < len(BUSES) else "", (devices[n].path or b"").decode())
        for n in range(count.value)
    )
    if devices and hasattr(library, "edgetpu_free_devices"):
        library.edgetpu_free_devices.argtypes = [ctypes.POINTER(_Device)]
        library.edgetpu_free_devices.restype = None
        library.edgetpu_free_devices(devices)
    return found


def _listed_by_pycoral() -> tuple[Listed, ...] | None:
    """The same by Google's pycoral, where that is installed: PyPI's package of the name has no such module."""
    try:
        pycoral = importlib.import_module("pycoral.utils.edgetpu")
    except ImportError:
        return None
    return tuple(Listed(str(one["type"]), str(one["path"])) for one in pycoral.list_edge_tpus())


def _open(question: Question, device: str) -> Trial:
    try:
        interpreter_class, load_delegate, runtime = _runtime()
    except ImportError:
        problem = "neither tflite-runtime nor ai-edge-litert is installed: make install."
        return Trial(problem=problem, exact=True)
    try:
        delegate = load_delegate(question.library, {"device": device})
    except (ValueError, OSError) as error:
        said = " ".join(str(error).split()).partition("Failed to load delegate from ")[2].removeprefix(question.library)
        return Trial(
            problem=f"{question.library} gives no device {device}"
            f"{f' ({said.strip()})' if said.strip() else ''}: absent, or held by another process.",
            runtime=runtime,
        )
    try:
        interpreter_class(model_content=smallest_model(), experimental_delegates=[delegate]).allocate_tensors()
    except (ValueError, RuntimeError) as error:
        return Trial(problem=f"{question.library} does not fit {runtime} ({error}).", exact=True, runtime=runtime)
    entries = tuple(chip.entry for chip in held(Path(question.root), cast(Bus, question.bus), os.getpid()))
    return Trial(held=entries, runtime=runtime)


def _runtime() -> tuple[Callable[..., Any], Callable[..., Any], str]:
    """The runtime that an Edge TPU's engine uses: the older one where this Python has it."""
    from importlib import metadata

    try:
        from tflite_runtime.interpreter import Interpreter, load_delegate

        return Interpreter, load_delegate, f"tflite-runtime {metadata.version('tflite-runtime')}"
    except ImportError:
        from ai_edge_litert.interpreter import Interpreter, load_delegate

        return Interpreter, load_delegate, f"ai-edge-litert {metadata.version('ai-edge-litert')}"


def smallest_model() -> bytes:
    """A model of one addition: enough for a delegate that does not fit its runtime to die of."""
    from embeddings_engine.build.flatgraph import Model

    model = Model("one addition")
    graph = model.graph("add")
    one = graph.input("one", (1,))
    graph.output("two", graph.op_many("ADD", [one, one], [(1,)], dtype="int32")[0])
    return model.to_bytes()


if __name__ == "__main__":
    sys.exit(main())
