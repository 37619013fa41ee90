"""Hearing and seeing music, a model's and its data: piano rolls, audio, the report of a run, an inspection.

In: Notes, a census, and the files of a run's folder. Out: PNG, MP3, HTML. No JAX: pages are made anywhere.
"""
