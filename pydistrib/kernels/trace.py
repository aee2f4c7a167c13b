class NotTraceable(Exception):
    pass


def trace_pairs(f, x, y):
    raise NotTraceable("not yet")
