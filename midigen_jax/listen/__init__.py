"""Hearing and seeing what a model wrote: piano rolls, audio, and the report of a run.

In: Notes, and the files of a run's folder. Out: PNG, MP3, HTML. No JAX here: a report is made anywhere.
"""
