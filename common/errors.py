"""The one exception for a user's mistake, and the search for the name that was meant."""
import difflib
import errno
import re
from typing import Iterable


class UserError(ValueError):
    """One sentence that names what is wrong and what is allowed.

    Entry points print it without a traceback and exit with code 2.
    """


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest of ``names``, or an empty string."""
    originals = {n.lower(): n for n in names}
    found = difflib.get_close_matches(str(name).lower(), originals, n=1, cutoff=0.6)
    return f" Did you mean '{originals[found[0]]}'?" if found else ""


def user_sentence(error: BaseException) -> str | None:
    """Find the sentence of a UserError inside ``error``.

    The framework runs data workers in other threads and processes and hands on only the text of what they raised,
    as a traceback inside a RuntimeError; the sentence is the part behind the last class name.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"'{str(error.filename)[:60]}...' is too long: no file system has such a path."
    if isinstance(error, MemoryError):
        return (f"the memory does not suffice ({reason(error) or 'no more is given'}); make batch_size, image_size or the "
                "network smaller.")
    found = re.findall(r"UserError: (.+)", str(error))
    return found[-1].strip() if found else None


def reason(error: Exception) -> str:
    """Return the short form of an error."""
    return getattr(error, "strerror", None) or str(error).split("\n")[0]
