/* A disk that misbehaves on command, put under a node by LD_PRELOAD. The file that HOWDAH_TEST_DISK names says how:
 *
 *   slow MS log         every fsync of the log takes so long
 *   slow MS postgres    every fsync of PostgreSQL
 *   slow MS both
 *   full                nothing more fits into the log
 *
 * Without the file it is an ordinary disk. What was done to somebody is noted in the file's neighbour with ".struck" behind its name: a letter
 * for each time, of the disk that it happened on (l: the log's, p: PostgreSQL's). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void strike(char letter) {
    char path[4096];
    snprintf(path, sizeof path, "%s.struck", getenv("HOWDAH_TEST_DISK"));
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd < 0) return;
    /* A test that finds no letter says so. */
    if (write(fd, &letter, 1) != 1) {}
    close(fd);
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

/* Whose disk the file is on; 0 where it is nobody's. */
static char disk_of(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    if (strstr(path, "/data/raft/")) return 'l';
    return strstr(path, "/data/pg/") ? 'p' : 0;
}

static void wait_if_slow(int fd) {
    char order[64], whose[16];
    long ms;
    int saved = errno;
    read_order(order, sizeof order);
    char disk = sscanf(order, "slow %ld %15s", &ms, whose) == 2 ? disk_of(fd) : 0;
    if (disk && (whose[0] == 'b' || whose[0] == disk)) {
        strike(disk);
        struct timespec pause = {ms / 1000, ms % 1000 * 1000000L};
        while (nanosleep(&pause, &pause) && errno == EINTR) {}
    }
    errno = saved;
}

static int is_full(int fd) {
    char order[64];
    int saved = errno;
    read_order(order, sizeof order);
    int full = !strncmp(order, "full", 4) && disk_of(fd) == 'l';
    if (full) strike('l');
    errno = full ? ENOSPC : saved;
    return full;
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_if_slow(fd);
    return real(fd);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    wait_if_slow(fd);
    return real(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    return is_full(fd) ? -1 : real(fd, bytes, size, offset);
}
