-- identical_genes: pairs of genes of different fold groups that share rows, as copies of one gene do.
-- A pair shares at least 3 different rows and a tenth of those of the gene that has fewer, and three times more than
-- chance gives; chance is what one of them shares with all other genes on average. Rows without information, such as
-- zeros alone, are one row of a gene however often it has them; where features take few values chance explains the
-- rest. Copies that are more than a third of all genes are taken for chance too.
-- grain:   gene_number, other_number
-- reads:   row_digests, compared_genes
-- params:  $n_genes     genes of the sample
--          $most_pairs  pairs of equal rows to look at, those of the rarest rows first
-- columns: gene_number  bigint   a gene
--          other_number bigint   a gene of higher number that shares rows with it
--          gene_id      varchar  the first by name
--          other_id     varchar  the second
--          fold_group   varchar  group of the first
--          other_group  varchar  group of the second
--          n_shared     bigint   different rows that both have
with shared as (
    select
        digest,
        count(*) as n_genes
    from row_digests
    group by digest
    having count(*) > 1
),
rarest as (
    select
        digest,
        sum(n_genes * n_genes) over (order by n_genes, digest) as n_pairs
    from shared
),
held as (
    select
        row_digests.digest,
        row_digests.gene_number,
        compared_genes.fold_group
    from row_digests
    join compared_genes using (gene_number)
    join rarest using (digest)
    where rarest.n_pairs <= $most_pairs
),
pairs as (
    select
        one.gene_number,
        other.gene_number as other_number,
        count(*) as n_shared
    from held as one
    join held as other
        on one.digest = other.digest
        and one.gene_number < other.gene_number
        and one.fold_group <> other.fold_group
    group by all
),
sides as (
    select
        gene_number,
        n_shared
    from pairs
    union all
    select
        other_number as gene_number,
        n_shared
    from pairs
),
links as (
    select
        gene_number,
        sum(n_shared)::bigint as n_links
    from sides
    group by gene_number
),
sizes as (
    select
        gene_number,
        count(*) as n_different
    from row_digests
    group by gene_number
),
measured as (
    select
        pairs.gene_number,
        pairs.other_number,
        one.gene_id,
        other.gene_id as other_id,
        one.fold_group,
        other.fold_group as other_group,
        pairs.n_shared,
        least(own.n_different, partner.n_different) as n_different,
        (greatest(of_one.n_links, of_other.n_links) - pairs.n_shared) / greatest($n_genes - 2, 1) as by_chance
    from pairs
    join compared_genes as one on one.gene_number = pairs.gene_number
    join compared_genes as other on other.gene_number = pairs.other_number
    join links as of_one on of_one.gene_number = pairs.gene_number
    join links as of_other on of_other.gene_number = pairs.other_number
    join sizes as own on own.gene_number = pairs.gene_number
    join sizes as partner on partner.gene_number = pairs.other_number
)
select
    gene_number,
    other_number,
    gene_id,
    other_id,
    fold_group,
    other_group,
    n_shared
from measured
where n_shared >= 3 + 3 * by_chance and n_shared >= 0.1 * n_different
order by gene_number, other_number
