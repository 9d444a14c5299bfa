"""How strongly and how cleanly a reward model perceives candidate control words, measured without training."""
