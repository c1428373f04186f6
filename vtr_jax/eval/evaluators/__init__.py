"""Each evaluator is a value with `run(state) -> dict of name: number`."""
