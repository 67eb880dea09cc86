"""The progress bar of long runs, loaded only when one is wanted."""

from contextlib import closing, nullcontext


def progress_bar(wanted, total, unit):
    """A tqdm bar as a context manager, or one that yields None.

    Parameters
    ----------
    wanted : bool
    total : float or None
    unit : str

    Returns
    -------
    context manager
    """
    if not wanted:
        return nullcontext()
    from tqdm.auto import tqdm

    return closing(tqdm(total=total, unit=unit))
