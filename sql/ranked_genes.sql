-- ranked_genes: the sampled genes in seeded order; those to train on and the held-out ones are numbered separately.
-- grain:   gene_id
-- reads:   label_counts, sampled_genes, gene_groups, holdout_groups
-- params:  $seed       any integer; the same seed gives the same order everywhere
--          $n_classes  number of classes
-- columns: gene_id      varchar   the gene
--          fold_group   varchar   the unit of independence: the gene itself or a cluster of overlapping genes
--          n_rows       bigint    rows of the gene
--          label_counts bigint[]  rows of each class, in the order of the classes
--          is_holdout   boolean   whether its fold group is kept from all training
--          rank         bigint    from 0 among the genes with the same is_holdout; genes of one group are neighbours
--          rows_before  bigint    rows of all genes of lower rank with the same is_holdout
with classes as (
    select unnest(range($n_classes)) as label
),
genes as (
    select
        label_counts.gene_id,
        gene_groups.fold_group,
        sum(label_counts.n_rows)::bigint as n_rows,
        gene_groups.fold_group in (select fold_group from holdout_groups) as is_holdout
    from label_counts
    semi join sampled_genes using (gene_id)
    join gene_groups using (gene_id)
    group by label_counts.gene_id, gene_groups.fold_group
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
ranked as (
    select
        genes.gene_id,
        genes.fold_group,
        genes.n_rows,
        counts.label_counts,
        genes.is_holdout,
        row_number() over (
            partition by genes.is_holdout
            order by md5(concat_ws(':', $seed, genes.fold_group)), genes.fold_group, genes.gene_id
        ) - 1 as rank
    from genes
    join counts using (gene_id)
)
select
    gene_id,
    fold_group,
    n_rows,
    label_counts,
    is_holdout,
    rank,
    (sum(n_rows) over (partition by is_holdout order by rank) - n_rows)::bigint as rows_before
from ranked
