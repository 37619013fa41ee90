"""The sides of `bench_train.py`: one training step each, in a process and with threads of its own.

`job` says what all of them train on; `rivals.child` is the program that builds one side and times
it when asked. Each other module is a side: `CANDIDATES`, its settings with the default first, and
`build(job, settings)`.
"""
