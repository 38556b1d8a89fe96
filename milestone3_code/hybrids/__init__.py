"""What hybrid models hit at equal memory: the plan, its rows, the table."""
