-- easy_below: the site score below which a negative is easy: a quantile over the negatives of the genes of lowest rank.
-- grain:   easy_below
-- reads:   source_rows (gene_id, label_text, site_score), gene_index
-- params:  $background  label of the negatives
--          $quantile    share of the negatives that is easy, 0 to 1
--          $n_genes     genes to look at
-- columns: easy_below double  null where no negative has a score
select quantile_disc(source_rows.site_score, $quantile::double) as easy_below
from source_rows
join gene_index using (gene_id)
where source_rows.label_text = $background and gene_index.gene_rank < $n_genes
