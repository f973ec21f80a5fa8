-- overlaps: genes shared by each pair of instances.
select
    one.instance_id as instance_id,
    other.instance_id as other_id,
    count(*) as n_genes
from instance_genes as one
join instance_genes as other on one.gene_id = other.gene_id and one.instance_id < other.instance_id
group by all
order by all
