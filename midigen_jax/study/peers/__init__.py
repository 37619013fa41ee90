"""Rivals of the decode loop in other libraries, each in a process of its own: see `study.decode_peers`.

`job` says what all of them are given. Each other module but `keras_model` is a side of `study.child`: `Job`,
`CANDIDATES`, `build(job, settings)`. All compute the article's network, pooling over the whole past.
"""
