"""One model's search: a config becomes live parts, trials of knob vectors and a saved front."""
