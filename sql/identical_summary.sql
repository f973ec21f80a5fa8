-- identical_summary: how many rows, genes and pairs of fold groups `identical_genes` holds, and the first pair.
-- grain:   n_rows
-- reads:   identical_genes, row_digests
-- params:
-- columns: n_rows        bigint   rows that a gene of another fold group has too, of both genes of each pair
--          n_genes       bigint   genes with such rows
--          n_group_pairs bigint   pairs of fold groups
--          gene_id       varchar  the first pair; null where there is none
--          other_id      varchar  its other gene
with sides as (
    select
        gene_number,
        other_number
    from identical_genes
    union all
    select
        other_number as gene_number,
        gene_number as other_number
    from identical_genes
),
copied as (
    select distinct
        own.gene_number,
        own.digest,
        own.n_rows
    from sides
    join row_digests as own on own.gene_number = sides.gene_number
    join row_digests as other on other.gene_number = sides.other_number and other.digest = own.digest
),
counts as (
    select
        coalesce(sum(n_rows), 0)::bigint as n_rows,
        count(distinct gene_number) as n_genes
    from copied
),
pairs as (
    select
        count(distinct (least(fold_group, other_group), greatest(fold_group, other_group))) as n_group_pairs,
        min_by(gene_id, (gene_number, other_number)) as gene_id,
        min_by(other_id, (gene_number, other_number)) as other_id
    from identical_genes
)
select
    counts.n_rows,
    counts.n_genes,
    pairs.n_group_pairs,
    pairs.gene_id,
    pairs.other_id
from counts
cross join pairs
