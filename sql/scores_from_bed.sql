-- scores_from_bed: the lines of a BED file of base scores, one class and position per line; its positions count from 0.
-- grain:   chrom, strand, position, donor, acceptor
-- reads:   score_lines
-- params:
-- columns: chrom     varchar  contig
--          strand    varchar  + or -
--          position  bigint   from 1
--          donor     double   score of a line whose name says donor, 0 in all others
--          acceptor  double   score of a line whose name says acceptor, 0 in all others
--          neither   double   null
with numbers as (
    select
        *,
        score::double as number,
        (contains(lower(name), 'donor'))::integer - (contains(lower(name), 'acceptor'))::integer as side
    from score_lines
    where chrom not like 'track%' and chrom not like 'browser%'
),
scales as (
    -- whole numbers up to 1000 are the thousandths that the format provides for
    select case when bool_and(number = round(number)) and max(number) between 2 and 1000 then 1000 else 1 end as scale
    from numbers
)
select
    chrom,
    strand,
    start::bigint + 1 as position,
    case
        when side > 0 then number / scale
        when side < 0 then 0
        else error('the fourth of six columns must say donor or acceptor, not ' || coalesce(name, 'nothing'))
    end as donor,
    case when side < 0 then number / scale else 0 end as acceptor,
    null::double as neither
from numbers
cross join scales
