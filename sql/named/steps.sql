-- steps: time, memory and bytes read of each step; instances that were trained at once are added up.
select
    step,
    round(sum(wall_seconds), 1) as wall_seconds,
    round(sum(cpu_seconds), 1) as cpu_seconds,
    round(max(peak_bytes) / 1073741824, 2) as peak_gib,
    round(sum(bytes_read) / 1073741824, 3) as gib_read
from stages
group by step
order by wall_seconds desc
