-- holdout_genes: one row per held-out gene; their ranks and rows stand behind those of the genes that are trained on.
-- grain:   gene_id
-- reads:   label_counts, sampled_genes, holdout_groups, gene_index
-- params:  $seed       any integer; the same seed gives the same order everywhere
--          $n_classes  number of classes
-- columns: gene_id      varchar   the gene
--          fold_group   varchar   the unit of independence: the gene itself or a cluster of overlapping genes
--          n_rows       bigint    candidate positions of the gene
--          label_counts bigint[]  rows of each class, in the order of the classes
--          gene_rank    bigint    number of genes in gene_index and on; genes of one group are neighbours
--          first_row    bigint    rows of gene_index and of all held-out genes of lower rank
with classes as (
    select unnest(range($n_classes)) as label
),
genes as (
    select
        gene_id,
        fold_group,
        sum(n_rows)::bigint as n_rows
    from label_counts
    semi join sampled_genes using (gene_id)
    semi join holdout_groups using (fold_group)
    group by all
),
counts as (
    select
        genes.gene_id,
        list(coalesce(label_counts.n_rows, 0) order by classes.label) as label_counts
    from genes
    cross join classes
    left join label_counts on label_counts.gene_id = genes.gene_id and label_counts.label = classes.label
    group by all
),
trained as (
    select
        count(*) as n_genes,
        coalesce(sum(n_rows), 0) as n_rows
    from gene_index
),
ranked as (
    select
        gene_id,
        fold_group,
        n_rows,
        label_counts,
        row_number() over (order by md5(concat_ws(':', $seed, fold_group)), fold_group, gene_id) - 1 as place
    from genes
    join counts using (gene_id)
)
select
    ranked.gene_id,
    ranked.fold_group,
    ranked.n_rows,
    ranked.label_counts,
    trained.n_genes + ranked.place as gene_rank,
    (trained.n_rows + sum(ranked.n_rows) over (order by ranked.place) - ranked.n_rows)::bigint as first_row
from ranked
cross join trained
order by gene_rank
