"""Calls that kill their process, at a point that the test chooses."""

import os
import signal


class Fatal:
    """Counts the calls of what it wraps, and dies in the place of the `point`-th."""

    def __init__(self, point):
        self.point, self.calls = point, 0

    def wrap(self, real):
        def call(*arguments, **options):
            if self.calls == self.point:
                os.kill(os.getpid(), signal.SIGKILL)
            self.calls += 1
            return real(*arguments, **options)

        return call

    def wrap_system(self, names):
        """Functions of `os`, where they are."""
        for name in names:
            setattr(os, name, self.wrap(getattr(os, name)))
