-- over_budget: instances whose predicted peak memory is above the budget of the plan; none is a pass.
-- grain:   instance_id
-- reads:   windows
-- params:  $budget_bytes  memory that one instance may take
-- columns: instance_id     bigint the instance
--          predicted_bytes bigint its predicted peak
select
    instance_id,
    predicted_bytes
from windows
where predicted_bytes > $budget_bytes::bigint
order by instance_id
