"""`gateway doctor`: looking at everything the gateway depends on, changing nothing."""
