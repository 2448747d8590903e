"""Days without a person: processes that collect, and whoever looks after them."""
