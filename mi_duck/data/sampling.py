"""Which easy negatives are trained on: tables ``sampling``, ``repeated_rows`` and the view ``row_uses``.

A row is kept by a digest of the seed, its gene, position and score, and, where other rows agree with it in these, of its
number among them in the canonical order of the dataset (``sql/repeated_rows.sql``). So neither the order of files nor the
cut of a dataset into files says which rows are kept.

What is left out is missing from matrices, cuts, windows, and the memory and time that are predicted. A row that stands for others
counts as many times in fits, early stopping and the refit of leaves. All else looks at every row, kept or not, once (times its
weight where the data have one): calibrators, weights of members, thresholds and scores.
"""

from mi_duck.data.database import Database


def make_row_uses(db: Database, *, easy_below: float, share: float, seed: int, background: str) -> None:
    """Make ``row_uses`` over ``source_rows``, whose content tells rows apart.

    Parameters
    ----------
    easy_below
        Negatives whose site score lies below are easy.
    share
        Of the easy negatives to keep, 0 to 1.
    background
        Label of the negatives.
    """
    db.table("sampling", easy_below=easy_below, share=share, seed=seed, background=background)
    db.table("repeated_rows")
    db.view("row_uses")
