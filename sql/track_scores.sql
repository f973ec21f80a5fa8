-- track_scores: the scores of one kind of site on a strand of a contig; where genes overlap, the highest of a position.
-- grain:   position
-- reads:   scored_positions (chrom, absolute_position, strand, p_donor, p_acceptor)
-- params:  $chrom   the contig
--          $strand  + or -
--          $site    donor or acceptor
--          $least   scores below are left out
-- columns: position integer  from 1
--          score    float    probability of the site
select
    absolute_position::integer as position,
    max(if($site = 'donor', p_donor, p_acceptor))::float as score
from scored_positions
where chrom = $chrom and strand = $strand
group by position
having score >= $least
order by position
