-- conflicting_rows: how many positions of the genes of lowest rank have rows of several labels, and the first of them.
-- grain:   n_positions
-- reads:   source_rows (gene_id, label_text, position), gene_index
-- params:  $n_genes  genes to look at
-- columns: n_positions bigint   positions with rows of several labels
--          gene_id     varchar  the gene of the first one, null where there is none
--          position    bigint   the first one
with looked_at as (
    select gene_id
    from gene_index
    where gene_rank < $n_genes
),
conflicts as (
    select
        gene_id,
        position
    from source_rows
    semi join looked_at using (gene_id)
    where position is not null
    group by all
    having min(label_text) <> max(label_text)
)
select
    count(*) as n_positions,
    min(gene_id) as gene_id,
    min_by(position, (gene_id, position)) as position
from conflicts
