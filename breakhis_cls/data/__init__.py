"""Which images there are, what each name says, and which part each is in: from the archive to a split."""
