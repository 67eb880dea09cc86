r"""Checks of the exercises that ask for a function: ``check(f)`` says what holds and what fails.

The name of the function chooses the exercise. In a notebook::

    from dmflib.exercises import check

    def sign_change_time(scale):
        ...

    check(sign_change_time)
"""

from dmflib import _checks, _exercises_motions, _exercises_solutions

_TASKS = {task.function: task for task in (*_exercises_solutions.TASKS, *_exercises_motions.TASKS)}


def names():
    """Names of the functions that the chapters ask for and `check` knows.

    Returns
    -------
    list of str
    """
    return sorted(_TASKS)


def check(function, seed=0):
    """Print which properties a reader's function has, and where one fails.

    Parameters
    ----------
    function : callable
        It must have the name that the exercise gives it.
    seed : int
        Another seed tries other instances.

    Raises
    ------
    ValueError
        If no exercise asks for a function of this name, or `seed` is negative.
    """
    name = getattr(function, "__name__", None)
    if not callable(function) or name not in _TASKS:
        _checks.fail("function", function, "a function named " + ", ".join(names()))
    print(_TASKS[name]().run(function, seed))
