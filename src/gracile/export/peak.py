"""Run one file in this process and print its peak memory.

Started by path in a fresh interpreter; imports nothing of gracile.

Arguments: the file, the input's shapes and types as JSON, the number of threads. Prints two numbers of KiB: peak
resident memory when onnxruntime was imported, and at the end.
"""

import json
import sys


def peak_kib() -> int:
    """This process's largest resident memory."""
    try:
        # Not getrusage: across exec it remembers the parent, which is larger than what is measured here.
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most // 1024 if sys.platform == "darwin" else most


def main() -> None:
    """Measure and print."""
    import numpy as np
    import onnxruntime as ort

    file, inputs, threads = sys.argv[1:]
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.log_severity_level = 3
    # Arenas hold what the largest operation took, like any user's session.
    before = peak_kib()
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed = {name: np.zeros(shape, dtype) for name, (shape, dtype) in json.loads(inputs).items()}
    for _ in range(3):
        session.run(None, feed)
    print(before, peak_kib())


if __name__ == "__main__":
    main()
