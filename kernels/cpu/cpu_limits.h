/* cpu_limits.h - how many cores the control groups leave to this process.
 *
 * A container with a quota of two cores on a machine of 64 reports 64 cores everywhere else; as
 * many threads would spend their time waiting for the quota to be renewed.
 *
 * THREADS: no shared state.
 */
#ifndef CAIRN_KERNELS_CPU_LIMITS_H
#define CAIRN_KERNELS_CPU_LIMITS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The smallest quota, in cores rounded up, of the control groups listed in `membership` (the file
 * /proc/self/cgroup) and of all groups above them, under `root` (/sys/fs/cgroup); versions 1 and 2.
 * 0 when there is none. Groups that cannot be seen from here are passed over. */
uint32_t cpu_limits_quota(const char *membership, const char *root);

#ifdef __cplusplus
}
#endif
#endif
