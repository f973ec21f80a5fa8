-- sampled_genes: whole genes chosen by seed from all files; all genes where $n_genes is null.
-- grain:   gene_id
-- reads:   label_counts
-- params:  $seed     any integer
--          $n_genes  how many, or null
-- columns: gene_id varchar  the gene
with genes as (
    select distinct gene_id
    from label_counts
),
numbered as (
    select
        gene_id,
        row_number() over (order by md5(concat_ws(':', $seed, 'sample', gene_id)), gene_id) as number
    from genes
)
select gene_id
from numbered
where $n_genes::bigint is null or number <= $n_genes::bigint
