-- wrong_overlap: pairs of windows that share another number of genes than the plan says; none is a pass.
-- grain:   instance_id, other_id
-- reads:   windows
-- params:  $overlap_genes  genes that neighbours share
--          $n_planned      instances as first planned; halves of a split one have ids from here on, and may share less
-- columns: instance_id bigint the window that begins first
--          other_id    bigint the other
--          n_shared    bigint genes in both
with numbered as (
    select
        instance_id,
        first_rank,
        stop_rank,
        row_number() over (order by first_rank, stop_rank, instance_id) as number
    from windows
),
pairs as (
    select
        one.instance_id,
        other.instance_id as other_id,
        greatest(0, least(one.stop_rank, other.stop_rank) - greatest(one.first_rank, other.first_rank)) as n_shared,
        case when other.number = one.number + 1 then $overlap_genes::bigint else 0 end as n_expected,
        greatest(one.instance_id, other.instance_id) >= $n_planned::bigint as has_half
    from numbered as one
    join numbered as other on one.number < other.number
)
select
    instance_id,
    other_id,
    n_shared
from pairs
where case when has_half then n_shared > $overlap_genes::bigint else n_shared != n_expected end
order by instance_id, other_id
