/* SPDX-License-Identifier: 0BSD */
/*
 * second_zero - a library that stops the clock at second 0, where a machine without a battery
 * starts. For LD_PRELOAD. The monotonic clock goes on.
 */
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)
        return (int)syscall(SYS_clock_gettime, clock, now);
    *now = (struct timespec){0};
    return 0;
}
