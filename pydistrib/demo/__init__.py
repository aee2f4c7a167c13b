"""
The main job, ``python -m pydistrib``: the post's examples and kernels on real data.

Every line of its table is a `Comparison`: one answer computed twice, by an original and
by pydistrib, both timed the same way.

Layout::

    run.py         options, order, exit code
    comparison.py  Example -> Comparison -> Row
    table.py       Row -> text or JSON, and progress
    post.py        EXAMPLES: the post's cells, as they were and on pydistrib
    server.py      what the downloads download from
    uses.py        USES: nearest neighbours, a Gaussian process, a density
    data.py        digits, diabetes and flights, out of the packages that ship them
    picture.py     the heat map and the density as a PNG

To add a line, write a function that returns a `Comparison` and enter it in EXAMPLES or
USES with its title.
"""
