-- track_calls: the sites of a contig that are called, as lines of BED; where genes overlap, by the highest score.
-- grain:   start, strand, name
-- reads:   scored_positions (chrom, absolute_position, strand, p_donor, p_acceptor)
-- params:  $chrom           the contig
--          $least_donor     probability from which a donor is called
--          $least_acceptor  probability from which an acceptor is called
-- columns: chrom  varchar  the contig
--          start  integer  from 0
--          stop   integer  not included
--          name   varchar  donor or acceptor
--          score  integer  thousandths of the probability, as BED has them
--          strand varchar  + or -
with best as (
    select
        absolute_position::integer as absolute_position,
        strand,
        max(p_donor) as donor,
        max(p_acceptor) as acceptor
    from scored_positions
    where chrom = $chrom
    group by all
),
calls as (
    select absolute_position, strand, 'donor' as name, donor as probability
    from best
    where donor >= $least_donor
    union all
    select absolute_position, strand, 'acceptor' as name, acceptor as probability
    from best
    where acceptor >= $least_acceptor
)
select
    $chrom::varchar as chrom,
    absolute_position - 1 as start,
    absolute_position as stop,
    name,
    round(1000 * probability)::integer as score,
    strand
from calls
order by start, strand, name
