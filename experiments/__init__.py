"""The programs of `implicit_accel.experiments`, run from a clone: ``python -m experiments.sweep``.

They live in the package, so that an installation brings no package of so general a name; this
folder only makes them found under their short one. Import them from the package.
"""

import implicit_accel.experiments

__path__ = implicit_accel.experiments.__path__
