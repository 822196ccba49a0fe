"""What the command line returns to the shell; 2, a wrong command, is argparse's."""

OK, FAILED, INTERRUPTED = 0, 1, 130
