"""A wide-area network on one machine: hosts with delay, rate and loss between them. Needs Linux and root."""
