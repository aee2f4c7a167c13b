"""
From a Python function of two points to a program for the core.

::

    function --sandbox--> a copy that can reach nothing but what is known to be pure
             --symbols--> called with symbols, once for every way through its branches
             --graph----> nodes: operations on doubles, each with a bound of its error
             --program--> words that the expression machine runs (src/expr/program.h)

`sandbox` decides what a traced function may touch, by `code` before it runs and with
`poison` in place of what it must not; `stand_ins` of what it may call are in
`numpy_functions`, `reductions`, `matrices`, `python_functions` and `corrected_sum`;
`symbols` stand for numbers and arrays, `operations` are what can be done with them,
`kinds` the types they would have; `bounds` and `function_bounds` know how errors spread,
and `signs` which zeros can meet.  Whatever is not known here is refused with a reason.
`pydistrib.kernels.trace` puts the parts together and checks the outcome against the
function itself.
"""
