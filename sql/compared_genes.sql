-- compared_genes: the genes whose rows are compared with those of other genes: all of the sample.
-- grain:   gene_id
-- reads:   label_counts, sampled_genes
-- params:
-- columns: gene_id     varchar  the gene
--          fold_group  varchar  its fold group, as the data say
--          gene_number bigint   from 1, in the order of the names
select
    gene_id,
    any_value(fold_group) as fold_group,
    row_number() over (order by gene_id) as gene_number
from label_counts
semi join sampled_genes using (gene_id)
group by gene_id
