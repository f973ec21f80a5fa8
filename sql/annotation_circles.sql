-- annotation_circles: contigs that are circles, as their own lines say.
-- grain:   chrom
-- reads:   annotation_features
-- params:
-- columns: chrom  varchar  contig
select distinct chrom
from annotation_features
where is_circular
order by chrom
