"""Many runs from one command: what they are, where they lie, which are left, and the processes that train them."""
