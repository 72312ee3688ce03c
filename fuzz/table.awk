# One row for each log of libFuzzer: what its last line and its statistics say.
function row() {
    if (target != "") printf form, target, runs, rate, edges, features
}
BEGIN {
    form = "%-14s %12s %11s %8s %9s\n"
    printf form, "target", "executions", "per second", "edges", "features"
}
FNR == 1 {
    row()
    target = FILENAME
    sub(/.*\//, "", target)
    sub(/\.log$/, "", target)
    edges = features = runs = rate = "-"
}
/cov: [0-9]+ ft: [0-9]+/ {
    for (i = 1; i < NF; i++) {
        if ($i == "cov:") edges = $(i + 1)
        if ($i == "ft:") features = $(i + 1)
    }
}
/stat::number_of_executed_units/ { runs = $2 }
/stat::average_exec_per_sec/ { rate = $2 }
END { row() }
