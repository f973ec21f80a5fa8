-- scores: base model, members, ensemble and its gain, every score on all rows out of fold, with its 95 % interval.
select
    scope,
    instance_id,
    metric,
    class,
    round(value, 4) as value,
    round(low, 4) as low,
    round(high, 4) as high
from metrics
where
    evaluated_on = 'oof'
    and (scope not in ('ensemble', 'difference') or is_chosen or variant = 'ensemble - base')
order by rowid
