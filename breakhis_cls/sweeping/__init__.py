"""Many runs as one: the plan, who executes it, and the search for settings. Never imports TensorFlow itself."""
