"""What a compiled engine computes, on a CPU: the graph's arithmetic with the plan's departures."""
