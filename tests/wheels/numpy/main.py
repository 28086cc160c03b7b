"""Linear algebra with several BLAS threads, checked against exact answers."""

import io
import os
import threading
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "4"  # more than there may be processors: the threads must be real ones
import numpy as np


def matmul():
    """Multiply by a permutation and by its inverse: every digit is known, whatever the order of the sums."""
    size = 600
    matrix = np.arange(size * size, dtype=np.float64).reshape(size, size) % 1009
    order = np.random.default_rng(7).permutation(size)
    permutation = np.eye(size)[order]
    moved = permutation @ matrix
    return {
        "moved": bool((moved == matrix[order]).all()),
        "back": bool((permutation.T @ moved == matrix).all()),
        "threads": len(list(Path("/proc/self/task").iterdir())) > threading.active_count(),
    }


def solve():
    """Solve, decompose and transform."""
    matrix = np.array([[4.0, 1.0, 2.0], [1.0, 5.0, 3.0], [2.0, 3.0, 6.0]])
    wanted = np.array([1.0, -2.0, 3.0])
    values, vectors = np.linalg.eigh(matrix)
    signal = np.sin(2 * np.pi * 50 * np.arange(1000) / 1000)
    return {
        "solved": np.linalg.solve(matrix, matrix @ wanted).round(9).tolist(),
        "eigen": bool(np.allclose(vectors @ np.diag(values) @ vectors.T, matrix)),
        "frequency": int(np.abs(np.fft.rfft(signal)).argmax()),
    }


def files():
    """Save, load and map."""
    table = np.linspace(0, 1, 11)
    packed = io.BytesIO()
    np.savez_compressed(packed, table=table)
    packed.seek(0)
    mapped = np.memmap("/tmp/table.bin", dtype="f8", mode="w+", shape=(11,))
    mapped[:] = table
    mapped.flush()
    again = np.fromfile("/tmp/table.bin", dtype="f8")
    return {"loaded": bool((np.load(packed)["table"] == table).all()), "mapped": bool((again == table).all())}


def handler(event, context):
    return {"matmul": matmul, "solve": solve, "files": files}[event["case"]]()
