"""Every case, in the order of the table."""

from cases import hearing, hosts, latency, missed, publish, saturated, tracked, transactions

# The server next to Debian's, in the rows against direct LISTEN.
NEWER = 18

CASES = [
    publish.write(), publish.alone(), missed.restart(), missed.recovery(), hearing.over_tls(), latency.next_to_busy(),
    transactions.of_postgres(), hosts.idle(), saturated.own_code(),
    *map(transactions.on_debian, transactions.WIDTHS), transactions.widest(),
    *(transactions.on_version(width, NEWER) for width in transactions.AGAINST_DIRECT),
    *map(saturated.on_debian, saturated.WIDTHS), saturated.widest(),
    *(saturated.on_version(width, NEWER) for width in saturated.AGAINST_DIRECT),
    *map(latency.on_debian, latency.WIDTHS), *(latency.on_version(width, NEWER) for width in latency.WIDTHS),
    hearing.drain(), publish.many(), hearing.clients(), hearing.subscriptions(),
    tracked.writers(), tracked.bulk(), tracked.recovery(), tracked.simulated_day(),
    hosts.memory(), hosts.many_hosts(), hosts.syncd(),
]
