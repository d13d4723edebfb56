# SPDX-License-Identifier: 0BSD
# Draws what bench-restart.sh measured, one panel for each server, as SVG on standard output:
#
#   gnuplot -c test/bench/restart.gnuplot FOLDER DURATION INTERVAL SERVER...
#
# FOLDER has three files for each SERVER. SERVER.totals has three lines: name and version, requests
# that failed, connections that were closed. SERVER.restarts has the time of each restart in seconds.
# A line of SERVER.timeline stands for INTERVAL milliseconds: the second at which they ended, the
# longest latency in ms ("-" without an answer), requests that failed, connections that were closed.

folder = ARG1
duration = ARG2
interval = ARG3
servers = ARG4
do for [i = 5:ARGC] { servers = servers." ".value(sprintf("ARG%d", i)) }
file(server, name) = sprintf("%s/%s.%s", folder, server, name)
name(server) = system("sed -n '1 { s/_/\\\\_/g; p }' '".file(server, "totals")."'")
total(server, line) = system(sprintf("sed -n %dp '%s'", line, file(server, "totals")))
set datafile missing "-"

# The same scale for all: a decade takes as much of each panel.
longest = 1
do for [server in servers] {
    stats file(server, "timeline") using 2 nooutput
    longest = STATS_max > longest ? STATS_max : longest
}
least = 0.1
longest = longest * 1.2

# Sizes in pixels, from the top. The marks stand in a strip above all latencies.
width = 860
left = 62
right = width - 92
first = 56
panel = 120
strip = 40
distance = panel + 32
bottom = first + words(servers) * distance - distance + panel
height = bottom + 50
x(pixels) = pixels / real(width)
y(pixels) = 1 - pixels / real(height)
latency(pixels) = least * (longest / least) ** (pixels / real(panel - strip))
failed_at = latency(panel - 8)
closed_at = latency(panel - 25)

# bench-restart.sh makes these brighter for a dark page.
grey = "#57606a"
blue = "#0969da"
red = "#cf222e"
orange = "#9a6700"

set terminal svg size width,height font "sans-serif,13" name "restart"
set encoding utf8
set multiplot
set lmargin at screen x(left)
set rmargin at screen x(right)
set border 3 linecolor rgb grey
set grid ytics linetype 1 linecolor rgb grey linewidth 0.3
set xrange [0:duration]
set xtics out nomirror scale 0.5 format "" textcolor rgb grey
set logscale y
set yrange [least:latency(panel)]
set ytics out nomirror scale 0.5 textcolor rgb grey
set ytics ("0.1" 0.1, "1" 1)
do for [i = 1:int(floor(log10(longest)))] { set ytics add (sprintf("%d", 10 ** i) 10 ** i) }
set key at screen x(right),y(8) horizontal maxrows 1 Left reverse width -4 samplen 1 \
    textcolor rgb grey
set label 1 "latency, ms" at screen x(14),y((first + bottom) / 2) \
    rotate center textcolor rgb grey
set label 2 "seconds" at screen x((left + right) / 2),y(bottom + 38) center textcolor rgb grey

do for [i = 1:words(servers)] {
    server = word(servers, i)
    above = first + (i - 1) * distance
    at(pixels) = y(above + panel - pixels)
    set tmargin at screen y(above)
    set bmargin at screen y(above + panel)
    set label 3 "{/:Bold ".name(server)."}" at screen x(left),y(above - 11) textcolor rgb grey
    set label 4 total(server, 2)." failed" at screen x(right + 8),at(panel - 8) textcolor rgb red
    set label 5 total(server, 3)." closed" at screen x(right + 8),at(panel - 25) textcolor rgb orange
    if (i == words(servers)) { set xtics format "%g" }
    plot file(server, "restarts") using 1:(latency(panel)) with impulses linecolor rgb grey \
            linewidth 0.8 dashtype 2 title "restart", \
        file(server, "timeline") using 1:2 with lines linewidth 1.3 linecolor rgb blue \
            title "longest in ".interval." ms", \
        file(server, "timeline") using 1:($3 > 0 ? failed_at : NaN) with points pointtype 2 \
            pointsize 0.9 linecolor rgb red title "failed requests", \
        file(server, "timeline") using 1:($4 > 0 ? closed_at : NaN) with points pointtype 6 \
            pointsize 0.8 linecolor rgb orange title "closed connections"
    unset key
    unset label 1
    unset label 2
}
unset multiplot
