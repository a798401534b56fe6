"""The command `bench`: how fast each stage is, and how near to the limit of the machine."""
