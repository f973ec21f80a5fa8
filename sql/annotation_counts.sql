-- annotation_counts: how many lines and transcripts were used, and how many were not.
-- grain:   n_exon_lines
-- reads:   annotation_features, annotation_exons, annotation_blocks, annotation_introns
-- params:
-- columns: n_exon_lines              bigint  lines of exons
--          n_coding_lines            bigint  lines of coding sequence
--          n_exons_without_strand    bigint  of both, those without a strand
--          n_exons_without_gene      bigint  of both, those with a strand and without a gene
--          n_transcripts             bigint  transcripts
--          n_transcripts_of_pieces   bigint  of these, those without lines of exons
--          n_short_introns           bigint  gaps between exons that are too short for introns
with used as (
    select distinct line from annotation_exons
),
lines as (
    select
        count(*) filter (where kind = 'exon') as n_exon_lines,
        count(*) filter (where kind = 'CDS') as n_coding_lines,
        count(*) filter (where strand not in ('+', '-')) as n_exons_without_strand,
        count(*) filter (where strand in ('+', '-') and line not in (from used)) as n_exons_without_gene
    from annotation_features
    where kind in ('exon', 'CDS')
),
transcripts as (
    select gene, transcript, chrom, strand, bool_or(is_exon) as has_exons
    from annotation_blocks
    group by all
)
select
    lines.*,
    (select count(*) from transcripts) as n_transcripts,
    (select count(*) filter (where not has_exons) from transcripts) as n_transcripts_of_pieces,
    (select count(*) filter (where is_short) from annotation_introns) as n_short_introns
from lines
