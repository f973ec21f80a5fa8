-- wrong_score: genes whose scored rows differ in number, order, fold or class from their rows; none is a pass.
-- grain:   gene_id
-- reads:   scored_rows, run_genes
-- params:  $first_rank  rank of the first gene that must be scored
--          $stop_rank   one past the last
-- columns: gene_id     varchar the gene
--          n_rows      bigint  its rows, null where it must not be scored
--          rows_scored hugeint its rows among those scored
with scored as (
    select
        gene_id,
        sum(n_rows) as n_rows,
        min(first_row) as first_row,
        max(last_row) as last_row,
        count(distinct fold) as n_folds,
        any_value(fold) as fold
    from scored_rows
    group by all
),
scored_labels as (
    select
        gene_id,
        label,
        sum(n_rows) as n_rows
    from scored_rows
    group by all
),
expected as (
    select *
    from run_genes
    where gene_rank >= $first_rank::bigint and gene_rank < $stop_rank::bigint
),
expected_labels as (
    select
        gene_id,
        unnest(range(len(label_counts))) as label,
        unnest(label_counts) as n_rows
    from expected
),
wrong_labels as (
    select distinct coalesce(expected_labels.gene_id, scored_labels.gene_id) as gene_id
    from expected_labels
    full join scored_labels using (gene_id, label)
    where coalesce(expected_labels.n_rows, 0) != coalesce(scored_labels.n_rows, 0)
)
select
    coalesce(expected.gene_id, scored.gene_id) as gene_id,
    expected.n_rows,
    coalesce(scored.n_rows, 0) as rows_scored
from expected
full join scored using (gene_id)
where
    expected.gene_id is null
    or scored.gene_id is null
    or scored.n_rows != expected.n_rows
    or scored.first_row != expected.first_row
    or scored.last_row != expected.first_row + expected.n_rows - 1
    or scored.n_folds != 1
    or scored.fold is distinct from expected.fold
    or coalesce(expected.gene_id, scored.gene_id) in (select gene_id from wrong_labels)
order by gene_id
