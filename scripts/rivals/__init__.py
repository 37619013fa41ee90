"""Rivals of the decode loop, for `midigen bench decode --peers`: see `rivals.decode`.

`transformer` is JAX's, in our process. Those in other libraries have one of their own: `job` says what all of
them are given, and each other module but `keras_model` is a side of `rivals.child`: `Job`, `CANDIDATES`,
`build(job, settings)`. They compute the article's network, pooling over the whole past.
"""
