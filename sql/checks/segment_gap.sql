-- segment_gap: segments that do not follow on the one before, or hold other rows than their genes; none is a pass.
-- grain:   number
-- reads:   segments, run_genes
-- params:
-- columns: number     bigint  number of the segment by rank; one past the last is the end of all genes
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
numbered as (
    select
        row_number() over (order by first_rank, stop_rank) - 1 as number,
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
        numbered.number,
        coalesce(sum(run_genes.n_rows), 0) as n_rows
    from numbered
    left join run_genes on run_genes.gene_rank >= numbered.first_rank and run_genes.gene_rank < numbered.stop_rank
    group by all
)
select
    numbered.number,
    numbered.first_rank,
    numbered.stop_rank
from numbered
join filled using (number)
where
    numbered.first_rank != numbered.rank_before
    or numbered.first_row != numbered.row_before
    or numbered.stop_row - numbered.first_row != filled.n_rows
order by numbered.number
