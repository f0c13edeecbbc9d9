#include "kernels/cpu/cpu_limits.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { PATH_BYTES = 4096, LINE_BYTES = 8192 };

static bool read_line(const char *path, char *line, int bytes) {
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    bool found = fgets(line, bytes, file) != NULL;
    fclose(file);
    return found;
}

static uint32_t cores(long long quota, long long period) {
    if (quota <= 0 || period <= 0) {
        return 0;
    }
    long long count = quota / period + (quota % period != 0);
    return count < UINT32_MAX ? (uint32_t)count : UINT32_MAX;
}

/* Quota of one group whose directory is `group`, 0 when it has none. */
static uint32_t group_quota(const char *group) {
    char path[PATH_BYTES + 32], line[128];
    long long quota, period;
    snprintf(path, sizeof path, "%s/cpu.max",
             group); /* version 2: "200000 100000" or "max 100000" */
    if (read_line(path, line, sizeof line)) {
        return sscanf(line, "%lld %lld", &quota, &period) == 2 ? cores(quota, period) : 0;
    }
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", group); /* version 1: -1 is no quota */
    if (!read_line(path, line, sizeof line) || sscanf(line, "%lld", &quota) != 1) {
        return 0;
    }
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", group);
    if (!read_line(path, line, sizeof line) || sscanf(line, "%lld", &period) != 1) {
        return 0;
    }
    return cores(quota, period);
}

static uint32_t smaller(uint32_t a, uint32_t b) {
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* From the group root + mount + path up to the mount point itself. */
static uint32_t quota_upwards(const char *root, const char *mount, const char *path) {
    char group[PATH_BYTES];
    size_t base = strlen(root) + strlen(mount);
    int size = snprintf(group, sizeof group, "%s%s%s", root, mount, path);
    if (size < 0 || (size_t)size >= sizeof group) {
        return 0;
    }
    uint32_t quota = group_quota(group);
    for (char *slash; (slash = strrchr(group + base, '/')) != NULL;) {
        *slash = '\0';
        quota = smaller(quota, group_quota(group));
    }
    return quota;
}

/* Is "cpu" one of the comma-separated controllers? */
static bool has_cpu(const char *controllers) {
    for (const char *at = controllers; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, "cpu", 3) == 0 && (at[3] == ',' || at[3] == '\0')) {
            return true;
        }
    }
    return false;
}

uint32_t cpu_limits_quota(const char *membership, const char *root) {
    FILE *file = fopen(membership, "re");
    if (file == NULL) {
        return 0;
    }
    uint32_t quota = 0;
    char line[LINE_BYTES];
    while (fgets(line, sizeof line, file) != NULL) {
        /* "4:cpu,cpuacct:/docker/1f" (version 1), "0::/user.slice" (version 2) */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (path == NULL) {
            continue;
        }
        *path++ = '\0';
        controllers++;
        char mount[LINE_BYTES + 1];
        if (controllers[0] == '\0') {
            quota = smaller(quota, quota_upwards(root, "", path));
        } else if (has_cpu(controllers)) {
            snprintf(mount, sizeof mount, "/%s", controllers);
            quota = smaller(quota, quota_upwards(root, mount, path));
            quota = smaller(quota, quota_upwards(root, "/cpu", path));
        }
    }
    fclose(file);
    return quota;
}
