"""Calibration: what the Thinker's matrices see decides how they are rounded.

`material` reads or makes texts, sounds and pictures, `sequences` turns them into the Thinker's inputs, `layers` runs
the decoder, `moments` quantizes a matrix by what goes into it, `calibrate` goes through all layers, and `results` keeps
what is finished for a resumed export.
"""
