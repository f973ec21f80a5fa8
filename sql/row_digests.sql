-- row_digests: the different rows of each gene by a digest of their features, and how many rows it has of each.
-- Equal rows have equal digests, so a share of all digests finds the copies of a share of all rows.
-- grain:   gene_number, digest
-- reads:   source_rows (gene_id, digest), compared_genes
-- params:  $one_in  one in this many digests is looked at; 1 is all
-- columns: gene_number bigint   the gene
--          digest      ubigint  of the row's content, as DuckDB hashes it
--          n_rows      bigint   rows of the gene with this content
with digests as (
    select
        compared_genes.gene_number,
        source_rows.digest
    from source_rows
    join compared_genes using (gene_id)
)
select
    gene_number,
    digest,
    count(*) as n_rows
from digests
where digest % $one_in::ubigint = 0
group by all
