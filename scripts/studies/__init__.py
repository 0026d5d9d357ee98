"""Questions that the papers leave open, answered by numbers: each study makes its page in the docs."""
