-- shap_sample: rows to explain, spread evenly over classes and, inside a class, over genes.
-- grain:   file, row_number
-- reads:   source_rows (gene_id, label_text, position, file, row_number), label_counts
-- params:  $seed    any integer; the same seed gives the same rows everywhere
--          $n_rows  rows wanted, at most as many as there are
-- columns: gene_id    varchar  the gene
--          fold_group varchar  the unit of independence: a cluster of overlapping genes, or the gene itself
--          label      integer  class
--          position   bigint   position of the row, null where the data have none
--          file       varchar  path of the file
--          row_number bigint   row in the file, from 0
with cells as (
    select
        gene_id,
        label_text,
        min(fold_group) as fold_group,
        min(label) as label,
        sum(n_rows)::bigint as n_rows
    from label_counts
    group by gene_id, label_text
),
listed as (
    select
        gene_id,
        label_text,
        fold_group,
        label,
        sum(n_rows) over (
            order by label, md5(concat_ws(':', $seed, 'shap', fold_group)), fold_group, gene_id
        )::bigint - n_rows as first_index,
        sum(n_rows) over ()::bigint as n_listed
    from cells
),
picks as (
    select
        (2 * pick + 1) * total.n_listed // (2 * $n_rows::bigint) as list_index
    from (select unnest(range($n_rows::bigint)) as pick)
    cross join (select max(n_listed) as n_listed from listed) as total
),
chosen as (
    select
        listed.gene_id,
        listed.label_text,
        listed.fold_group,
        listed.label,
        picks.list_index - listed.first_index as number
    from picks
    asof join listed on picks.list_index >= listed.first_index
),
numbered as (
    select
        gene_id,
        label_text,
        position,
        file,
        row_number,
        row_number() over (partition by gene_id, label_text order by position, file, row_number) - 1 as number
    from source_rows
    semi join chosen using (gene_id, label_text)
)
select
    gene_id,
    chosen.fold_group,
    chosen.label,
    numbered.position,
    numbered.file,
    numbered.row_number
from numbered
join chosen using (gene_id, label_text, number)
order by chosen.fold_group, gene_id, numbered.position, numbered.file, numbered.row_number
