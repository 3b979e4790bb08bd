"""Calibration: the Thinker's INT4 matrices are rounded by what goes into them.

`thinker` is the calibration of one export. `material` reads texts, sounds and pictures, or takes those of the package
(`texts`, `made_media`). `sequences` makes the Thinker's inputs of them. `calibrate` goes through all layers: `layers`
runs one, `moments` quantizes a matrix, and `results` keeps what is finished for a resumed export.
"""
