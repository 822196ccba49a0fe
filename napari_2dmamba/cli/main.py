"""The command line: ``main`` finds the command and turns what it raises into an exit code."""

import argparse
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from napari_2dmamba import __version__
from napari_2dmamba.cli.checkpoints import add_checkpoints_command
from napari_2dmamba.cli.compare import add_compare_command
from napari_2dmamba.cli.doctor import add_doctor_command
from napari_2dmamba.cli.evaluate import add_evaluate_command, add_report_command
from napari_2dmamba.cli.exit_codes import FAILED, INTERRUPTED, OK
from napari_2dmamba.cli.explain import add_explain_command
from napari_2dmamba.cli.export import add_export_command
from napari_2dmamba.cli.output import complain
from napari_2dmamba.cli.receptive_field import add_receptive_field_command
from napari_2dmamba.cli.rerun import add_rerun_command
from napari_2dmamba.cli.run import add_extract_command, add_run_command
from napari_2dmamba.cli.search import add_search_command
from napari_2dmamba.cli.segment import add_segment_command
from napari_2dmamba.cli.split import add_split_command
from napari_2dmamba.cli.tiles import add_tiles_command
from napari_2dmamba.cli.train import add_train_command
from napari_2dmamba.cli.view import add_demo_command, add_view_command, can_view
from napari_2dmamba.crash_log import crashes_logged, sentence_for_last_crash
from napari_2dmamba.errors import Cancelled, UserError
from napari_2dmamba.last_net import sentence_for

COMMANDS: dict[str, Callable[[Any], None]] = {
    "view": add_view_command,
    "run": add_run_command,
    "explain": add_explain_command,
    "compare": add_compare_command,
    "extract": add_extract_command,
    "export": add_export_command,
    "receptive-field": add_receptive_field_command,
    "tiles": add_tiles_command,
    "segment": add_segment_command,
    "split": add_split_command,
    "search": add_search_command,
    "train": add_train_command,
    "evaluate": add_evaluate_command,
    "report": add_report_command,
    "rerun": add_rerun_command,
    "checkpoints": add_checkpoints_command,
    "doctor": add_doctor_command,
    "demo": add_demo_command,
}
"""What adds each command to the parser, in the order of ``--help``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: all went well; 1: at least one slide failed (each failure is one sentence on standard
    error); 2: the command itself is wrong; 130: interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given and can_view():
        given = ["view"]
    if given and given[0] not in COMMANDS and not given[0].startswith("-"):
        given.insert(0, "view")
    # the options of all commands take the imports of every settings class: the window need not wait
    asked = given[:1] if given and given[0] in COMMANDS else COMMANDS
    parser = command_parser(asked)
    options = parser.parse_args(given)
    if "action" not in options:
        parser.print_help()
        return OK
    # What cannot be decoded is an error in an analysis; the viewer's remark would say it twice
    remarks = logging.getLogger("napari_2dmamba.slide")
    level = remarks.level
    remarks.setLevel(logging.ERROR)
    of_threads = threading.excepthook
    if given[0] != "view":  # napari shows those of its threads
        threading.excepthook = _quietly
    crash = sentence_for_last_crash()
    if crash:
        complain(crash)
    try:
        with crashes_logged():
            return int(options.action(options, parser))
    except UserError as error:
        complain(str(error))
        return FAILED
    except (KeyboardInterrupt, Cancelled):
        complain("stopped; what was finished is kept")
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED
    except Exception as error:  # noqa: BLE001 - the last net
        complain(sentence_for(error, given[0]))
        return FAILED
    finally:
        remarks.setLevel(level)  # for who calls this from Python
        threading.excepthook = of_threads


def _quietly(told: threading.ExceptHookArgs) -> None:
    """Log what ended a thread of some package; whoever waits for the thread gets the error too."""
    if isinstance(told.exc_value, Exception) and not isinstance(told.exc_value, OSError):
        sentence_for(told.exc_value, "a thread")


def view_main() -> None:
    """Start the viewer without a console (Windows and desktop launchers)."""
    sys.exit(main(["view", *sys.argv[1:]]))


def command_parser(names: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of some commands, or of all."""
    parser = argparse.ArgumentParser(
        prog="napari-2dmamba",
        description="Open a gigapixel slide, run 2DMambaMIL, and see why the model decided "
        "what it did.",
        epilog="napari-2dmamba SLIDE... is short for napari-2dmamba view SLIDE...; without "
        "anything it opens the viewer on the recent slides and saved runs.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name in names:
        COMMANDS[name](commands)
    return parser
