"""What tests share: servers, processes, faults, and how to look at them."""
