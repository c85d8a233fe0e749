"""A dashboard that several processes serve and every open page follows. `make demo` starts it."""
