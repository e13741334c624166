"""The command line: arguments in, one library call, progress shown, exit code out.

Exit codes: 0 done; 1 some cases failed (they are listed, the others are written); 2 wrong usage or unusable input,
said in one line on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from medseg.errors import CasesFailedError, MedsegError

SOME_FAILED = 1
UNUSABLE = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(given))


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code. ``--debug`` anywhere lets errors pass with their traceback."""
    from medseg.cli.app import app

    debug = "--debug" in arguments
    words = [word for word in arguments if word != "--debug"]
    try:
        return int(app(words or ["--help"], prog_name="medseg", standalone_mode=False) or 0)
    except CasesFailedError as error:
        if debug:
            raise
        _complain(str(error))
        return SOME_FAILED if len(error.failures) < error.total else UNUSABLE
    except MedsegError as error:
        if debug:
            raise
        _complain(str(error))
        return UNUSABLE
    except KeyboardInterrupt:
        _complain("interrupted")
        return UNUSABLE
    except Exception as error:
        if debug:
            raise
        wrong_usage = getattr(error, "format_message", None)  # the command line parser's own errors
        if wrong_usage is not None:
            command = getattr(getattr(error, "ctx", None), "command_path", "medseg")  # of the verb, where there is one
            _complain(f"{wrong_usage().rstrip('.')}. See: {command} --help")
        else:
            _complain(f"unexpected {type(error).__name__}: {error}; run it again with --debug for the whole story")
        return UNUSABLE


def _complain(message: str) -> None:
    print(f"medseg: {message}", file=sys.stderr)  # noqa: T201 - this is where errors reach a person
