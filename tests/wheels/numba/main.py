"""Code made while running: numba's, in parallel too, and sympy's."""

import numba
import numpy as np
import sympy


@numba.njit
def collatz(number):
    steps = 0
    while number != 1:
        number = number // 2 if number % 2 == 0 else 3 * number + 1
        steps += 1
    return steps


@numba.njit(parallel=True)
def total(values):
    found = 0.0
    for at in numba.prange(values.size):
        found += values[at]
    return found


def jit():
    return [collatz(27), total(np.arange(100_001.0))]


def symbols():
    x = sympy.symbols("x")
    compiled = sympy.lambdify(x, sympy.diff(sympy.sin(x) ** 2, x), "numpy")
    return [str(sympy.integrate(2 * x, x)), [int(root) for root in sympy.solve(x**2 - 9, x)], round(float(compiled(np.pi / 4)), 9)]


def handler(event, context):
    return globals()[event["case"]]()
