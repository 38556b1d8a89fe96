"""What a client's hint is worth: the plan, its rows, what they come to, the plot and the table."""
