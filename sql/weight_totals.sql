-- weight_totals: what the rows of each class weigh together in each fold.
-- grain:   fold, label
-- reads:   source_rows (gene_id, label_text, weight), gene_folds
-- params:  $labels  texts of the labels in the order of the classes
-- columns: fold   bigint  the fold
--          label  integer the class, by index
--          weight double  sum of the weights
select
    gene_folds.fold,
    list_position($labels, source_rows.label_text) - 1 as label,
    sum(source_rows.weight) as weight
from source_rows
join gene_folds using (gene_id)
group by all
order by fold, label
