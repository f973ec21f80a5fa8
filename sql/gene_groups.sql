-- gene_groups: the fold group of every gene of the dataset: as the data say, or the one that it was joined into.
-- grain:   gene_id
-- reads:   label_counts, joined_groups
-- params:
-- columns: gene_id    varchar  the gene
--          fold_group varchar  the unit of independence
select
    label_counts.gene_id,
    any_value(coalesce(joined_groups.joined, label_counts.fold_group)) as fold_group
from label_counts
left join joined_groups using (fold_group)
group by label_counts.gene_id
