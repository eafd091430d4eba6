"""What an exception of a library says, in a few words for one line."""

import errno
import os

from nn_lib.checks import first_line


def reason(error: BaseException) -> str:
    """What the operating system said, where that can be found in what was made of it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    known = [os.strerror(n) for n in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS)]
    known += [os.strerror(n) for n in (errno.ENOENT, errno.EACCES, errno.EIO, errno.ESTALE)]
    said = str(error).replace("NOT_FOUND", os.strerror(errno.ENOENT))  # as tensorstore says it
    return next((text for text in known if text in said), first_line(error))
