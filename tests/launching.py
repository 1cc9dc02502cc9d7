"""How tests start a script on two processes."""

ACCELERATE = ("-m", "accelerate.commands.launch")
TWO = (
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
)
"""Options of it, given after it, so that it asks for no configuration."""
