-- segment_gap: segments that do not follow on the one before, or hold other rows than their genes; none is a pass.
-- grain:   place
-- reads:   segments, run_genes
-- params:
-- columns: place      bigint  place of the segment by rank; one past the last stands for the end of all genes
--          first_rank bigint  where it begins
--          stop_rank  bigint  where it ends
with ends as (
    select
        count(*) as n_genes,
        coalesce(sum(n_rows), 0) as n_rows
    from run_genes
),
all_segments as (
    select
        first_rank,
        stop_rank,
        first_row,
        stop_row
    from segments
    union all
    select
        n_genes,
        n_genes,
        n_rows,
        n_rows
    from ends
),
placed as (
    select
        row_number() over (order by first_rank, stop_rank) - 1 as place,
        first_rank,
        stop_rank,
        first_row,
        stop_row,
        coalesce(lag(stop_rank) over (order by first_rank, stop_rank), 0) as rank_before,
        coalesce(lag(stop_row) over (order by first_rank, stop_rank), 0) as row_before
    from all_segments
),
filled as (
    select
        placed.place,
        coalesce(sum(run_genes.n_rows), 0) as n_rows
    from placed
    left join run_genes on run_genes.gene_rank >= placed.first_rank and run_genes.gene_rank < placed.stop_rank
    group by all
)
select
    placed.place,
    placed.first_rank,
    placed.stop_rank
from placed
join filled using (place)
where
    placed.first_rank != placed.rank_before
    or placed.first_row != placed.row_before
    or placed.stop_row - placed.first_row != filled.n_rows
order by placed.place
