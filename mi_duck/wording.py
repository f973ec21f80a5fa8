"""What the groups of a table are called in text: genes where their column says so, else groups."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GENE = re.compile(r"(?:^|[^A-Za-z])genes?(?![a-z])|Gene(?:s|Id|ID|Name)?(?![a-z])")


WORD = re.compile(r"(?<![\w./-])gene(s?)(?![\w/-]|\.\w)")


@dataclass(frozen=True, slots=True)
class Noun:
    """One of the groups that are never split, and several: ``gene`` and ``genes``, or ``group`` and ``groups``."""

    one: str
    many: str

    def count(self, n: int) -> str:
        """Return a number of them.

        Examples
        --------
        >>> noun_of("gene_id").count(1), noun_of("patient").count(1200)
        ('1 gene', '1,200 groups')
        """
        return f"{n:,} {self.one if n == 1 else self.many}"

    def words(self, text: str) -> str:
        """Return a sentence about genes as one about these; names of files and columns stay.

        Examples
        --------
        >>> noun_of("patient").words("a gene of genes.parquet whose gene_id differs: 2 genes")
        'a group of genes.parquet whose gene_id differs: 2 groups'
        """
        return text if self.one == "gene" else WORD.sub(rf"{self.one}\1", text)

    def renamed(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return facts whose names speak of genes under names that speak of these.

        Examples
        --------
        >>> noun_of("patient").renamed({"n_genes": 3, "rows per gene": 7})
        {'n_groups': 3, 'rows per group': 7}
        """
        return {re.sub(r"(?<![a-z])gene(s?)(?![a-z])", rf"{self.one}\1", name): value for name, value in facts.items()}


GENES, GROUPS = Noun("gene", "genes"), Noun("group", "groups")


def noun_of(column: str) -> Noun:
    """Return what the groups of a column are called.

    Examples
    --------
    >>> [noun_of(name).many for name in ("gene_id", "GeneName", "ensembl_gene", "patient", "generation")]
    ['genes', 'genes', 'genes', 'groups', 'groups']
    """
    return GENES if GENE.search(column) else GROUPS
