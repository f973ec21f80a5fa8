-- scores_from_table: the lines of a table of base scores, one position per line.
-- grain:   chrom, strand, position
-- reads:   score_lines
-- params:
-- columns: chrom     varchar  contig
--          strand    varchar  + or -
--          position  bigint   from 1
--          donor     double   score, null where there is none
--          acceptor  double   score, null where there is none
--          neither   double   score, null where there is none
select
    trim(chrom) as chrom,
    trim(strand) as strand,
    position::bigint as position,
    donor_score::double as donor,
    acceptor_score::double as acceptor,
    neither_score::double as neither
from score_lines
