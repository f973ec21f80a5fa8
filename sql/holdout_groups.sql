-- holdout_groups: fold groups that are kept from all training: those of given genes, or a share chosen by seed.
-- grain:   fold_group
-- reads:   gene_groups, sampled_genes
-- params:  $seed      any integer
--          $fraction  share of the fold groups of the sampled genes, or null
--          $genes     genes whose groups are held out whole, whether they are sampled or not, or null
-- columns: fold_group varchar  the unit of independence
with groups as (
    select distinct fold_group
    from gene_groups
    semi join sampled_genes using (gene_id)
),
numbered as (
    select
        fold_group,
        row_number() over (order by md5(concat_ws(':', $seed, 'holdout', fold_group)), fold_group) as number,
        count(*) over () as n_groups
    from groups
)
select fold_group
from numbered
where number <= round($fraction::double * n_groups)
union
select fold_group
from gene_groups
where gene_id in (select unnest($genes::varchar[]))
