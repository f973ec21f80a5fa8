-- split_gene: genes in several fold groups, so that no fold can hold them whole; none is a pass.
-- grain:   gene_id
-- reads:   label_counts
-- params:
-- columns: gene_id  varchar  the gene
--          n_groups bigint   its fold groups
select
    gene_id,
    count(distinct fold_group) as n_groups
from label_counts
group by all
having count(distinct fold_group) > 1
order by gene_id
