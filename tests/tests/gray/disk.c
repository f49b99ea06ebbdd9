/* A disk that misbehaves on command, put under a node by LD_PRELOAD. The file that HOWDAH_TEST_DISK names says how:
 *
 *   slow MS   every fsync takes so long
 *   full      nothing more fits into the log
 *
 * Without the file it is an ordinary disk. What was done to somebody is noted in the file's neighbour with ".struck" behind its name. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void strike(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s.struck", getenv("HOWDAH_TEST_DISK"));
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd >= 0) close(fd);
}

/* The order, or an empty one. */
static void read_order(char *order, size_t size) {
    order[0] = 0;
    const char *path = getenv("HOWDAH_TEST_DISK");
    int fd = path ? open(path, O_RDONLY) : -1;
    if (fd < 0) return;
    ssize_t length = read(fd, order, size - 1);
    order[length > 0 ? length : 0] = 0;
    close(fd);
}

static void wait_if_slow(void) {
    char order[64];
    long ms;
    read_order(order, sizeof order);
    if (sscanf(order, "slow %ld", &ms) != 1) return;
    strike();
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&pause, &pause) && errno == EINTR) {}
}

static int is_full(int fd) {
    char order[64], link[64], path[4096];
    read_order(order, sizeof order);
    if (strncmp(order, "full", 4)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    if (!strstr(path, "/raft/")) return 0;
    strike();
    errno = ENOSPC;
    return 1;
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_if_slow();
    return real(fd);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    wait_if_slow();
    return real(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    return is_full(fd) ? -1 : real(fd, bytes, size, offset);
}
