"""
From a Python function of two points to a program for the core.

::

    function --sandbox--> a copy that can reach nothing but what is known to be pure
             --symbols--> called with symbols, once for every way through its branches
             --graph----> nodes: operations on doubles, each with a bound of its error
             --program--> words that the expression machine runs (src/expr/program.h)

`sandbox` decides what a traced function may touch; `numpy_functions` and
`python_functions` hold the stand-ins of what it may call; `symbols` stand for numbers and
arrays, `operations` are what can be done with them, `kinds` the types they would have;
`bounds` knows how errors spread.  Whatever is not known here is refused with a reason.
`pydistrib.kernels.trace` puts the parts together and checks the outcome against the
function itself.
"""
