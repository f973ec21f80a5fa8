-- similar_genes: how many gene names differ only in case or in space at their ends: one gene may count as several.
-- grain:   n_names
-- reads:   gene_index, holdout_genes
-- params:
-- columns: n_names bigint     names, in small letters and without space at their ends, that are written in several ways
--          genes   varchar[]  how the first of them is written, sorted; null where there is none
with genes as (
    select gene_id
    from gene_index
    union all
    select gene_id
    from holdout_genes
),
named as (
    select
        gene_id,
        lower(trim(gene_id)) as folded
    from genes
),
written as (
    select
        folded,
        list(gene_id order by gene_id) as genes
    from named
    group by folded
    having count(*) > 1
)
select
    count(*) as n_names,
    min_by(genes, folded) as genes
from written
