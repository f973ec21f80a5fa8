-- instances: genes, rows, predicted and measured memory of each instance.
select
    instance_id,
    n_genes,
    n_rows,
    round(predicted_bytes / 1073741824, 2) as predicted_gib,
    round(measured_peak_bytes / 1073741824, 2) as measured_gib,
    round(wall_seconds, 1) as wall_seconds,
    status,
    round(weight, 4) as weight
from instances
order by instance_id
