"""What holds for every test: Ctrl-C reaches the commands under test, however the tests themselves were started."""

import signal

# A shell that starts a job in the background has it ignore SIGINT, and every process that the job starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
