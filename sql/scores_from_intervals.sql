-- scores_from_intervals: the intervals of a bedGraph or bigWig file of one class and strand, a line for each base.
-- grain:   chrom, strand, position
-- reads:   score_lines
-- params:  $site    donor or acceptor
--          $strand  + or -
-- columns: chrom     varchar  contig
--          strand    varchar  + or -
--          position  bigint   from 1
--          donor     double   score, 0 in a file of acceptors
--          acceptor  double   score, 0 in a file of donors
--          neither   double   null
with bases as (
    select
        chrom,
        score::double as score,
        unnest(range(start::bigint, stop::bigint)) + 1 as position
    from score_lines
    where chrom not like 'track%' and chrom not like 'browser%'
)
select
    chrom,
    $strand::varchar as strand,
    position,
    case when $site = 'donor' then score else 0 end as donor,
    case when $site = 'acceptor' then score else 0 end as acceptor,
    null::double as neither
from bases
