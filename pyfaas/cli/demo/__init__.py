"""`pyfaas demo`: the main job, run on real input from nothing to nothing."""
