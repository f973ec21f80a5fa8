-- held_out: base model, members, ensemble and its gain on the genes held out from all training; empty where none were.
select
    scope,
    instance_id,
    metric,
    class,
    round(value, 4) as value,
    round(low, 4) as low,
    round(high, 4) as high,
    too_narrow,
    n_rows
from metrics
where evaluated_on = 'holdout'
order by rowid
