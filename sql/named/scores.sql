-- scores: base model, members, ensemble and its gain, out of fold, with 95 % interval and why that is too narrow.
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
where
    evaluated_on = 'oof'
    and (scope not in ('ensemble', 'difference') or is_chosen or variant = 'ensemble - base')
order by rowid
